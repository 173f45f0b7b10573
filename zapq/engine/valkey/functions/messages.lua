-- Messages: their heads, and where they are

-- The head of a value. Its first byte says what follows: nothing (0), the length of the type and the type (1), or
-- (2) the priority, when the ttl is over or 0, the length of the type, that of the origin, type and origin. For a
-- message with headers (3) it is as with 2, but the length of the shape comes behind the other two, and the shape at
-- the end: how long the names and values are that stand between the head and the body. They count as the body does.
-- For one with a group (4) the length of the group comes behind that of the shape, and the group at the end; and for
-- one with a key (5), that of the key and the key behind those.
local function head(priority, expires, kind, origin, shape, group, key)
  if key ~= '' then
    return '\5' .. struct.pack('>BdBBHBB', priority, expires, #kind, #origin, #shape, #group, #key)
      .. kind .. origin .. shape .. group .. key
  end
  if group ~= '' then
    return '\4' .. struct.pack('>BdBBHB', priority, expires, #kind, #origin, #shape, #group)
      .. kind .. origin .. shape .. group
  end
  if shape ~= '' then
    return '\3' .. struct.pack('>BdBBH', priority, expires, #kind, #origin, #shape) .. kind .. origin .. shape
  end
  if expires == 0 and origin == '' and priority == 0 then
    if kind == '' then return '\0' end
    return '\1' .. string.char(#kind) .. kind
  end
  return '\2' .. struct.pack('>BdBB', priority, expires, #kind, #origin) .. kind .. origin
end

local function head_length(value)
  local form = string.byte(value)
  if form == 0 then return 1 end
  if form == 1 then return 2 + string.byte(value, 2) end
  if form == 3 then
    local kind, origin, shape = struct.unpack('>BBH', value, 11)
    return 14 + kind + origin + shape
  end
  if form == 4 then
    local kind, origin, shape, group = struct.unpack('>BBHB', value, 11)
    return 15 + kind + origin + shape + group
  end
  if form == 5 then
    local kind, origin, shape, group, key = struct.unpack('>BBHBB', value, 11)
    return 16 + kind + origin + shape + group + key
  end
  return 12 + string.byte(value, 11) + string.byte(value, 12)
end

-- Returns what the head of a value says: priority, when its ttl is over or 0, type, origin, shape, group, key.
local function read_head(value)
  local form = string.byte(value)
  if form == 0 then return 0, 0, '', '', '', '', '' end
  if form == 1 then return 0, 0, string.sub(value, 3, 2 + string.byte(value, 2)), '', '', '', '' end
  local priority, expires, kind, origin = struct.unpack('>BdBB', value, 2)
  local at, shape, group, key = 12, 0, 0, 0
  if form == 3 then at, shape = 14, struct.unpack('>H', value, 13) end
  if form == 4 then
    shape, group = struct.unpack('>HB', value, 13)
    at = 15
  end
  if form == 5 then
    shape, group, key = struct.unpack('>HBB', value, 13)
    at = 16
  end
  local middle, last = at + kind, at + kind + origin
  return priority, expires, string.sub(value, at + 1, middle), string.sub(value, middle + 1, last),
    string.sub(value, last + 1, last + shape), string.sub(value, last + shape + 1, last + shape + group),
    string.sub(value, last + shape + group + 1, last + shape + group + key)
end

-- The origin of a message that has changed queues: the queue it failed in, if it is a dead letter, then the queue its
-- producer sent it to, its id there, and how often it was leased in the queues it has left: `failed/queue/id/receives`.
local function failed_in(origin)
  return string.match(origin, '^[^/]*')
end

-- Returns the group that a message waits in, from its origin and group: '' for a dead letter.
local function waits_in(origin, group)
  return failed_in(origin) == '' and group or ''
end

-- Returns the group that a message waits in.
local function group_of(value)
  local _, _, _, origin, _, group = read_head(value)
  return waits_in(origin, group)
end

-- Returns the origin of a message that leaves this queue, where it had this id and origin. It failed in `failed`.
local function origin_of(u, id, origin, receives, failed)
  local queue, first, before = string.match(origin, '^[^/]*/([^/]+)/(%d+)/(%d+)$')
  if not queue then
    local _, name = names(u)
    queue, first, before = name, string.format('%d', id), 0
  end
  return string.format('%s/%s/%s/%d', failed, queue, first, before + receives)
end

-- Returns what a member of d or m, or a receipt begins with.
local function badge(priority, is_mortal, id)
  return string.format('%d%d%012x', 9 - priority, is_mortal and 1 or 0, id)
end

-- Returns the member of d or m for a message.
local function entry(priority, is_mortal, id, size, is_grouped)
  return badge(priority, is_mortal, id) .. string.format(is_grouped and 'g%x' or '-%x', size)
end

-- A receipt goes on with a dash, or g for a message in a group, the caller's nonce in 12 hexadecimal digits, the queue's
-- tag in 8, for how many milliseconds the lease was given in 8, a dash, and the size of the body. All but the last have
-- one length, for looking for dashes takes longer than all the rest.
local TAG_OF_RECEIPT, TIME_OF_RECEIPT, SIZE_OF_RECEIPT = 28, 36, 45

local function id_of(member)
  return tonumber(string.sub(member, 3, 14), 16)
end

-- Returns what a receipt or member of d or m says: priority, whether there is a ttl, id, size, whether there is a
-- group; or nil.
local function parse(member)
  if #member < 16 then return nil end
  local size = string.sub(member, #member < SIZE_OF_RECEIPT and 16 or SIZE_OF_RECEIPT)
  return 9 - string.sub(member, 1, 1), string.byte(member, 2) == 49, id_of(member), tonumber(size, 16),
    string.byte(member, 15) == 103
end

-- Returns a message as it is kept; an empty one if a hand from outside has removed it. An error would come again with
-- each call.
local function kept(u, id)
  return redis.call('HGET', u.K[H], id) or '\0'
end

-- Returns for how many milliseconds this queue holds messages, or 0. Each gets that as a ttl when it comes.
local function retention_of(u)
  local seconds = u.settings.retention
  return seconds and math.max(math.floor(seconds * 1000 + 0.5), 1) or 0
end

-- Returns when the ttl of a message is over, or 0, and the group it waits in.
local function expiry_and_group(u, id)
  local _, expires, _, origin, _, group = read_head(kept(u, id))
  return expires, waits_in(origin, group)
end

-- Returns how often a message came back, how often it was released without a delay, a receipt, and whether any of this
-- is noted. The receipt is that of the lease which goes on, if the message is leased once more; or of that which
-- expired last, if it was not given out since; else ''.
local function attempts(u, id)
  if u.q[NOTED] > 0 then
    local noted = redis.call('HGET', u.K[H], 'c' .. id)
    if noted then
      local receives, releases = struct.unpack('>I4I4', noted)
      return receives, releases, string.sub(noted, 9), true
    end
  end
  return 0, 0, '', false
end

local function note_attempts(u, id, receives, releases, lapsed, is_noted)
  redis.call('HSET', u.K[H], 'c' .. id, struct.pack('>I4I4', receives, releases) .. lapsed)
  if not is_noted then u.q[NOTED] = u.q[NOTED] + 1 end
end

-- Notes how a lease ended, for consumers that come too late.
local function note_end(u, receipt, how)
  redis.call('ZADD', u.K[E], u.now * 8 + how, receipt)
  u.ended = (u.ended or 0) + 1
end

local function watch(u, at)
  local q = u.q
  if q[DUE] == 0 or at < q[DUE] then q[DUE] = at end
end

-- Removes a message that is in none of its places any more.
local function drop(u, id, size, is_noted)
  local q = u.q
  if is_noted then
    redis.call('HDEL', u.K[H], id, 'c' .. id)
    q[NOTED] = q[NOTED] - 1
  else
    redis.call('HDEL', u.K[H], id)
  end
  q[COUNT], q[BYTES] = q[COUNT] - 1, q[BYTES] - size
end

-- Makes a message ready at the place that its rank gives it, and that in the group it waits in, if there is one.
local function make_ready(u, id, priority, size, expires, group)
  local q = u.q
  if group == '' then
    redis.call('ZADD', u.K[B], id - priority * STEP, id)
    q[LINED] = q[LINED] + 1
    u.ready = u.ready + 1
  else
    groups.enter(u, group, id)
  end
  if expires > 0 then
    redis.call('ZADD', u.K[M], expires, entry(priority, true, id, size, group ~= ''))
    watch(u, expires)
  end
end

-- Takes a ready message, other than one in l, out of its place.
local function make_unready(u, id, priority, size, is_mortal, group)
  local q = u.q
  if group == '' then
    redis.call('ZREM', u.K[B], id)
    q[LINED], u.ready = q[LINED] - 1, u.ready - 1
  else
    groups.remove(u, group, id)
  end
  if is_mortal then redis.call('ZREM', u.K[M], entry(priority, true, id, size, group ~= '')) end
end

-- Puts a message into the outbox, for the queue `target`. `value` is as that queue is to keep it.
local function send(u, target, priority, value)
  local q = u.q
  q[OUT], q[SENT], u.sent = q[OUT] + 1, q[SENT] + 1, true
  redis.call('RPUSH', u.K[O], cmsgpack.pack({ q[SENT], target, priority, value }))
end

-- Sends a message that failed too often to the dead-letter queue, without its ttl.
local function give_up(u, id, priority, size, receives, is_noted)
  local q, value = u.q, kept(u, id)
  local _, _, kind, origin, shape, group, key = read_head(value)
  local _, name = names(u)
  local body = string.sub(value, head_length(value) + 1)
  local from = origin_of(u, id, origin, receives, name)
  send(u, u.settings.dead_letter, priority, head(priority, 0, kind, from, shape, group, key) .. body)
  q[DEAD_LETTERED] = q[DEAD_LETTERED] + 1
  drop(u, id, size, is_noted)
end

-- Sends the message of a lease that ended without an acknowledgement where it belongs, and says what became of it.
-- `lapsed` is the receipt if its holder may still acknowledge it, else ''.
local function come_back(u, id, priority, is_mortal, size, is_grouped, delay, released, lapsed)
  local receives, releases, _, is_noted = attempts(u, id)
  receives = receives + 1
  local most = u.settings.max_receives
  local expires, group = 0, ''
  if is_mortal or is_grouped then expires, group = expiry_and_group(u, id) end
  if most and receives >= most then
    groups.let_go(u, group, id)
    give_up(u, id, priority, size, receives, is_noted)
    return END_DEAD_LETTERED
  end
  if expires > 0 and expires <= u.now then
    groups.let_go(u, group, id)
    drop(u, id, size, is_noted)
    u.q[EXPIRED] = u.q[EXPIRED] + 1
    return END_OUTLIVED
  end
  if released and delay == 0 then
    releases = releases + 1
    if releases > RELEASES_AT_ONCE then
      delay = math.min(BACKOFF * 2 ^ (releases - RELEASES_AT_ONCE - 1), MAX_BACKOFF)
    end
  end
  note_attempts(u, id, receives, releases, lapsed, is_noted)
  if delay > 0 then
    local due = u.now + delay
    if expires > 0 and expires < due then due = expires end
    redis.call('ZADD', u.K[D], due, entry(priority, is_mortal, id, size, is_grouped))
    watch(u, due)
  else
    make_ready(u, id, priority, size, expires, group)
  end
  return END_EXPIRED
end

-- Ends a lease whose time is over.
local function lapse(u, receipt)
  local priority, is_mortal, id, size, is_grouped = parse(receipt)
  redis.call('ZREM', u.K[X], receipt)
  u.q[LEASES_EXPIRED] = u.q[LEASES_EXPIRED] + 1
  note_end(u, receipt, come_back(u, id, priority, is_mortal, size, is_grouped, 0, false, receipt))
end

-- Closes a lease that expired: what becomes of its message now, its holder can change no more.
local function close_lapse(u, lapsed, how)
  if lapsed ~= '' then note_end(u, lapsed, how) end
end

local function first_time(key)
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return first[2] and tonumber(first[2]) or 0
end

local function earliest(...)
  local least = 0
  for _, at in ipairs({ ... }) do
    if at > 0 and (least == 0 or at < least) then least = at end
  end
  return least
end

-- Does what is due, at most so many of each kind. Returns whether more is.
local function tick(u)
  local q, K, now = u.q, u.K, u.now
  if q[DUE] == 0 or q[DUE] > now then return false end
  u.changed = true
  for _, receipt in ipairs(redis.call('ZRANGE', K[X], '-inf', now, 'BYSCORE', 'LIMIT', 0, TICKS)) do
    lapse(u, receipt)
  end
  for _, member in ipairs(redis.call('ZRANGE', K[D], '-inf', now, 'BYSCORE', 'LIMIT', 0, TICKS)) do
    redis.call('ZREM', K[D], member)
    local priority, is_mortal, id, size, is_grouped = parse(member)
    local expires, group = 0, ''
    if is_mortal or is_grouped then expires, group = expiry_and_group(u, id) end
    if expires > 0 and expires <= now then
      groups.let_go(u, group, id)
      local _, _, _, is_noted = attempts(u, id)
      drop(u, id, size, is_noted)
      q[EXPIRED] = q[EXPIRED] + 1
    else
      make_ready(u, id, priority, size, expires, group)
    end
  end
  for _, member in ipairs(redis.call('ZRANGE', K[M], '-inf', now, 'BYSCORE', 'LIMIT', 0, TICKS)) do
    local priority, _, id, size, is_grouped = parse(member)
    make_unready(u, id, priority, size, true, is_grouped and group_of(kept(u, id)) or '')
    local _, _, lapsed, is_noted = attempts(u, id)
    close_lapse(u, lapsed, END_OUTLIVED)
    drop(u, id, size, is_noted)
    q[EXPIRED] = q[EXPIRED] + 1
  end
  q[DUE] = earliest(first_time(K[X]), first_time(K[D]), first_time(K[M]))
  return q[DUE] > 0 and q[DUE] <= now
end
