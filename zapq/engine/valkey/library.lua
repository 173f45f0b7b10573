#!lua name=zapq_1
-- Every verb of a zapq queue, one function each: atomic on one shard, in one unit of replication.
--
-- A queue, by the last part of its keys' names:
--
--   h  hash    s          the state, as below
--              c          the settings, where some are not the default
--              r          how fast it is emptied, once a producer was refused
--              f          the queues whose dead letters come here
--              ID         the body of a message, its head before it: written once, so replicated once
--              c ID       how often a message was delivered, once it came back
--   l  list    ids of messages that are ready for the first time and have neither a priority nor a ttl, oldest first
--   b  zset    ids of all other ready messages, by rank: the id, less 2^48 for each step of priority
--   d  zset    delayed messages, by when they are due
--   x  zset    leases, by when they end; a member is the receipt itself, so an old one is simply not there
--   m  zset    ready messages with a ttl, by when it is over
--   e  zset    receipts whose leases ended in another way than by an acknowledgement, and how
--   w  zset    front ends with consumers that wait here, the one that has waited longest first
--   o  list    the outbox: messages for queues of other shards; they are here until those queues have them
--   g  hash    what came last out of the outbox of each queue that sends messages here
--
-- A message is in exactly one of l, b, d and x, and leaves it in the step in which it enters another. What must be
-- removable from the middle is in b and not in l, so no entry ever stands for nothing.
--
-- The members of d and m, and receipts up to their first dash, say what is known of the message: 9 less its
-- priority, 1 if it has a ttl, and its id in 12 hexadecimal digits. So they are in the order of their ranks where
-- their times are equal, and few bodies are read only to learn what is in their heads.
--
-- Of a shard: `due`, a zset of queues by when something is due in them, never later than that; `queues`, a zset of
-- their names, all with the score 0; and `past`, what queues had counted that were deleted.
--
-- A function that fails half-way leaves what it has written. So all is checked before the first write, and no
-- function asks for more than 7,999 values at once.
--
-- Functions are named with every key they touch: while a slot moves key by key, the server then answers TRYAGAIN,
-- and no function sees half a queue. Only `figures` and `sums`, which change nothing, look further.

local TEST = false -- whether callers may say what time it is
local VERSION = 1

-- Limits, from limits.py
local DEFAULT_VISIBILITY = @DEFAULT_VISIBILITY@
local MAX_BATCH_BYTES = @MAX_BATCH_BYTES@
local IDEMPOTENCY_WINDOW = @IDEMPOTENCY_WINDOW@
local RELEASES_AT_ONCE = @RELEASES_AT_ONCE@
local BACKOFF = @BACKOFF@
local MAX_BACKOFF = @MAX_BACKOFF@
local LEASE_SLACK = @LEASE_SLACK@
local DRAIN_WINDOW = @DRAIN_WINDOW@
local MIN_RETRY_AFTER = @MIN_RETRY_AFTER@
local MAX_RETRY_AFTER = @MAX_RETRY_AFTER@
local REDRIVE_LOOKS = @REDRIVE_LOOKS@
local TICKS = 1000 -- of each kind done in one call: some 10 ms
local AT_ONCE = 2000 -- elements given to one command: well below what Lua's stack holds
local ENDS_KEPT = 3600000 -- milliseconds for which it is known how a lease ended ...
local MOST_ENDS = 100000 -- ... unless so many others have ended since
local WAITING_KEPT = 60000 -- milliseconds for which a line of front ends is kept that none of them renews
local IDS_SKIPPED = 1048576 -- what a failover may have lost is given no second time

local STEP = 281474976710656 -- 2^48: a rank is exact in a double, up to 2^48 ids and priority 9

-- Keys, by their places
local H, L, B, D, X, M, E, W, O, DUE_INDEX, NAMES, FURTHER = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12

-- The state, by places. Most are 0, and take one byte each.
local NEXT = 1 -- the next id
local COUNT = 2 -- messages held
local BYTES = 3
local DUE = 4 -- when something is due next, or 0; it may say too early a time
local INDEXED = 5 -- what the shard's index says of that
local PAUSED = 6
local LINED = 7 -- ids in b
local NOTED = 8 -- fields `c ID` in h
local LARGEST = 9 -- bytes of the largest body there was since the queue was empty
local WAITED = 10 -- whether there may be front ends in w
local OUT = 11 -- messages in the outbox
local SENT = 12 -- the number of the last one there was
local EPOCH = 13 -- of which master the ids are
local EPOCH_BEFORE = 14
local BORN = 15 -- when it was made, in microseconds: tells it from an earlier queue of its name
local PURGED = 16 -- ids below this one were purged, or had gone before
local ENQUEUED = 17
local DEQUEUED = 18
local RECEIVED = 19
local ACKED = 20
local RELEASED = 21
local LEASES_EXPIRED = 22
local EXPIRED = 23
local DEAD_LETTERED = 24
local REDRIVEN = 25
local REFUSED = 26
local RETURNED = 27
local CLEARED = 28
local ARRIVED = 29
local UNCERTAIN = 30
local TAG = 31 -- tells its receipts from those of other queues, earlier ones of its name included
local PLACES = 31

-- How a lease ended: the numbers of core/leases.py
local OF_ANOTHER = 9 -- said instead of it, for a receipt of another queue
local END_UNKNOWN, END_ACKED, END_RELEASED, END_EXPIRED = 0, 1, 2, 3
local END_GIVEN, END_DEAD_LETTERED, END_OUTLIVED = 4, 5, 6


---------------------------------------------------------------------------------------------------------------------
-- A step on a queue: reading its state, and writing it
---------------------------------------------------------------------------------------------------------------------

local function time()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000), t[1] * 1000000 + t[2]
end

-- Returns a new state. It is not written before `save`.
local function newborn(key, born)
  local q = {}
  for place = 1, PLACES do q[place] = 0 end
  q[NEXT], q[BORN], q[EPOCH], q[EPOCH_BEFORE] = 1, born, '', ''
  q[TAG] = tonumber(string.sub(redis.sha1hex(key .. born), 1, 8), 16)
  return q
end

-- Begins a step. ARGV: 1 the epoch of the master, 2 the time in a test, else nothing.
-- The step's `q` is nil if there is no such queue; the default queue is always there.
local function begin(K, A)
  local now, born = time()
  if A[2] ~= '' then
    if not TEST then error('zapq: only a library for tests is told the time') end
    now = tonumber(A[2])
  end
  local u = { K = K, now = now, born = born, epoch = A[1], ready = 0, sent = false, settings = {} }
  local found = redis.call('HMGET', K[H], 's', 'c')
  if found[1] then
    u.q = cmsgpack.unpack(found[1])
  elseif string.sub(K[H], -12) == ':q:default:h' then
    u.q, u.new, u.is_default = newborn(K[H], born), true, true
  end
  if found[2] then u.settings = cmsgpack.unpack(found[2]) end
  local q = u.q
  if q and q[EPOCH] ~= A[1] and q[EPOCH_BEFORE] ~= A[1] then
    -- Another master: it may not know of the last ids, nor of the last entries of the outbox, whose numbers other
    -- queues have seen. Not if the epoch is the one before, for a master can get another replication id while front
    -- ends are connected, which then tell the old one for a while.
    if q[EPOCH] ~= '' then q[NEXT], q[SENT] = q[NEXT] + IDS_SKIPPED, q[SENT] + IDS_SKIPPED end
    q[EPOCH_BEFORE], q[EPOCH], u.changed = q[EPOCH], A[1], true
  end
  return u
end

local function names(u)
  if not u.name then u.tag, u.name = string.match(u.K[H], '^({z%d+}):q:(.+):h$') end
  return u.tag, u.name
end

-- Makes the queue of a step, if there is none. Returns nothing, or a refusal if its shard has as many as it may.
local function ensure(u, most)
  if u.q and not u.new then return end
  local held = redis.call('ZCARD', u.K[NAMES])
  if not u.q and most > 0 and held >= most then return { 'queues', held, most } end
  u.q, u.new = u.q or newborn(u.K[H], u.born), true
  u.q[EPOCH] = u.epoch
  if TEST then u.rate = cmsgpack.pack({ u.now, 0, u.now, 0 }) end -- it was not made when it was born
end

-- Tells front ends that messages are ready: as many consumers as there are messages, those of the one first that
-- has waited longest. It leaves the line, for it asks now; if some of its consumers get nothing, it enters again.
-- One that does not hear us is gone.
local function wake(u)
  local q, left = u.q, u.ready
  local tag, name = names(u)
  while left > 0 do
    local first = redis.call('ZPOPMIN', u.K[W])
    if not first[1] then
      q[WAITED] = 0
      return
    end
    if redis.call('SPUBLISH', tag .. ':wake:' .. first[1], '+' .. name) > 0 then left = left - first[2] % 1024 end
  end
end

-- Forgets how leases ended, once some were noted: twice as many as those at most, so no step pays for many.
local function forget_ends(u)
  local key, most = u.K[E], math.min(2 * u.ended, AT_ONCE)
  local old = redis.call('ZRANGE', key, '-inf', (u.now - ENDS_KEPT) * 8, 'BYSCORE', 'LIMIT', 0, most)
  if #old > 0 then redis.call('ZREM', key, unpack(old)) end
  local beyond = redis.call('ZCARD', key) - MOST_ENDS
  if beyond > 0 then redis.call('ZPOPMIN', key, math.min(beyond, most)) end
  redis.call('PEXPIRE', key, ENDS_KEPT)
end

-- Ends a step: what it did is in the state and, if that changed when something is due, in the shard's index.
-- `fields` are further fields of h, after two places for the key and the state.
local function save(u, fields)
  local q, K = u.q, u.K
  if u.new then
    local _, name = names(u)
    redis.call('ZADD', K[NAMES], 0, name)
    q[WAITED] = redis.call('ZCARD', K[W]) > 0 and 1 or 0
  end
  local due = u.sent and 1 or q[DUE]
  if due > 0 and (q[INDEXED] == 0 or due < q[INDEXED]) then
    local _, name = names(u)
    redis.call('ZADD', K[DUE_INDEX], due, name)
    q[INDEXED] = due
  end
  if u.ended then forget_ends(u) end
  if q[WAITED] == 1 and u.ready > 0 and q[PAUSED] == 0 then wake(u) end
  if u.rate then
    fields = fields or { '', '', '' }
    local at = #fields
    fields[at + 1], fields[at + 2] = 'r', u.rate
  end
  if fields then
    fields[1], fields[2], fields[3] = K[H], 's', cmsgpack.pack(q)
    redis.call('HSET', unpack(fields))
  else
    redis.call('HSET', K[H], 's', cmsgpack.pack(q))
  end
end

-- What every answer begins with: the time, and whether there is something in the outbox.
local function answer(u, ...)
  return { u.now, u.q and u.q[OUT] or 0, ... }
end

local function missing(u)
  return { u.now, 0, 'missing' }
end

-- Calls a command with very many elements in pieces, each with the first argument before it.
local function in_pieces(command, key, elements)
  local number = #elements
  if number == 0 then return 0 end
  if number <= AT_ONCE then return redis.call(command, key, unpack(elements)) end
  local sum = 0
  for first = 1, number, AT_ONCE do
    sum = sum + redis.call(command, key, unpack(elements, first, math.min(first + AT_ONCE - 1, number)))
  end
  return sum
end

---------------------------------------------------------------------------------------------------------------------
-- Messages: their heads, and where they are
---------------------------------------------------------------------------------------------------------------------

-- The head of a value. Its first byte says what follows: nothing (0), the length of the type and the type (1), or
-- (2) the priority, when the ttl is over or 0, the length of the type, that of the origin, type and origin.
local function head(priority, expires, kind, origin)
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
  return 12 + string.byte(value, 11) + string.byte(value, 12)
end

-- Returns what the head of a value says: priority, when its ttl is over or 0, type, origin.
local function read_head(value)
  local form = string.byte(value)
  if form == 0 then return 0, 0, '', '' end
  if form == 1 then return 0, 0, string.sub(value, 3, 2 + string.byte(value, 2)), '' end
  local priority, expires, kind, origin = struct.unpack('>BdBB', value, 2)
  return priority, expires, string.sub(value, 13, 12 + kind), string.sub(value, 13 + kind, 12 + kind + origin)
end

-- Returns what a member of d or m, or a receipt begins with.
local function badge(priority, is_mortal, id)
  return string.format('%d%d%012x', 9 - priority, is_mortal and 1 or 0, id)
end

-- A receipt goes on with the caller's nonce in 12 hexadecimal digits, the queue's tag in 8, for how many milliseconds
-- the lease was given in 8, a dash, and the size of the body. All but the last have one length, for looking for
-- dashes takes longer than all the rest.
local TAG_OF_RECEIPT, TIME_OF_RECEIPT, SIZE_OF_RECEIPT = 28, 36, 45

local function id_of(member)
  return tonumber(string.sub(member, 3, 14), 16)
end

-- Returns what a receipt or member of d or m says: priority, whether there is a ttl, id, size; or nil.
local function parse(member)
  if #member < 16 then return nil end
  local size = string.sub(member, #member < SIZE_OF_RECEIPT and 16 or SIZE_OF_RECEIPT)
  return 9 - string.sub(member, 1, 1), string.byte(member, 2) == 49, id_of(member), tonumber(size, 16)
end

-- Returns a message as it is kept; an empty one if a hand from outside has removed it. An error would come again with
-- each call.
local function kept(u, id)
  return redis.call('HGET', u.K[H], id) or '\0'
end

local function expiry(u, id)
  local _, expires = read_head(kept(u, id))
  return expires
end

-- Returns how often a message came back, how often it was released without a delay, the receipt of the lease that
-- expired last if it was not given out since, and whether any of this is noted.
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

-- Makes a message ready at the place that its rank gives it.
local function make_ready(u, id, priority, size, expires)
  local q = u.q
  redis.call('ZADD', u.K[B], id - priority * STEP, id)
  q[LINED] = q[LINED] + 1
  u.ready = u.ready + 1
  if expires > 0 then
    redis.call('ZADD', u.K[M], expires, badge(priority, true, id) .. string.format('-%x', size))
    watch(u, expires)
  end
end

-- Puts a message into the outbox, for the queue `target`. `value` is as that queue is to keep it.
local function send(u, target, priority, value)
  local q = u.q
  q[OUT], q[SENT], u.sent = q[OUT] + 1, q[SENT] + 1, true
  redis.call('RPUSH', u.K[O], cmsgpack.pack({ q[SENT], target, priority, value }))
end

-- Sends a message that failed too often to the dead-letter queue, without its ttl.
local function give_up(u, id, priority, size, is_noted)
  local q, value = u.q, kept(u, id)
  local _, _, kind = read_head(value)
  local _, name = names(u)
  local body = string.sub(value, head_length(value) + 1)
  send(u, u.settings.dead_letter, priority, head(priority, 0, kind, name) .. body)
  q[DEAD_LETTERED] = q[DEAD_LETTERED] + 1
  drop(u, id, size, is_noted)
end

-- Sends the message of a lease that ended without an acknowledgement where it belongs, and says what became of it.
-- `lapsed` is the receipt if its holder may still acknowledge it, else ''.
local function come_back(u, id, priority, is_mortal, size, delay, released, lapsed)
  local receives, releases, _, is_noted = attempts(u, id)
  receives = receives + 1
  local most = u.settings.max_receives
  if most and receives >= most then
    give_up(u, id, priority, size, is_noted)
    return END_DEAD_LETTERED
  end
  local expires = is_mortal and expiry(u, id) or 0
  if expires > 0 and expires <= u.now then
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
    redis.call('ZADD', u.K[D], due, badge(priority, is_mortal, id) .. string.format('-%x', size))
    watch(u, due)
  else
    make_ready(u, id, priority, size, expires)
  end
  return END_EXPIRED
end

-- Ends a lease whose time is over.
local function lapse(u, receipt)
  local priority, is_mortal, id, size = parse(receipt)
  redis.call('ZREM', u.K[X], receipt)
  u.q[LEASES_EXPIRED] = u.q[LEASES_EXPIRED] + 1
  note_end(u, receipt, come_back(u, id, priority, is_mortal, size, 0, false, receipt))
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
    local priority, is_mortal, id, size = parse(member)
    local expires = is_mortal and expiry(u, id) or 0
    if expires > 0 and expires <= now then
      local _, _, _, is_noted = attempts(u, id)
      drop(u, id, size, is_noted)
      q[EXPIRED] = q[EXPIRED] + 1
    else
      make_ready(u, id, priority, size, expires)
    end
  end
  for _, member in ipairs(redis.call('ZRANGE', K[M], '-inf', now, 'BYSCORE', 'LIMIT', 0, TICKS)) do
    redis.call('ZREM', K[M], member)
    local _, _, id, size = parse(member)
    redis.call('ZREM', K[B], id)
    q[LINED], u.ready = q[LINED] - 1, u.ready - 1
    local _, _, lapsed, is_noted = attempts(u, id)
    close_lapse(u, lapsed, END_OUTLIVED)
    drop(u, id, size, is_noted)
    q[EXPIRED] = q[EXPIRED] + 1
  end
  q[DUE] = earliest(first_time(K[X]), first_time(K[D]), first_time(K[M]))
  return q[DUE] > 0 and q[DUE] <= now
end

---------------------------------------------------------------------------------------------------------------------
-- Producers: put
---------------------------------------------------------------------------------------------------------------------

-- Returns in how many seconds a producer that was refused should come back, as core/drain_rate.py does.
local function retry_after(u, excess)
  local q, now = u.q, u.now
  local gone = q[ENQUEUED] + q[ARRIVED] - q[COUNT]
  local kept = redis.call('HGET', u.K[H], 'r')
  local since, before, at, then_gone
  if kept then
    since, before, at, then_gone = unpack(cmsgpack.unpack(kept))
  else
    since, before = math.floor(q[BORN] / 1000), 0
    at, then_gone = since, 0
  end
  if now - at >= DRAIN_WINDOW then
    since, before, at, then_gone = at, then_gone, now, gone
  end
  u.rate = cmsgpack.pack({ since, before, at, then_gone })
  if gone <= before then return MIN_RETRY_AFTER end
  local seconds = math.ceil(excess * (now - since) / 1000 / (gone - before))
  return math.min(math.max(seconds, MIN_RETRY_AFTER), MAX_RETRY_AFTER)
end

-- Returns the first cap that so many more messages would be over, or nil. `plan` has those of the server, which
-- hold for each queue: what all queues hold together, only the server's memory limits.
local function excess(u, plan, count, size)
  local q, own = u.q, u.settings
  local messages, bytes = q[COUNT] + count, q[BYTES] + size
  if count > 0 and messages > plan[1] then return 'max_msgs', 'max_messages', q[COUNT], plan[1], messages - plan[1] end
  if size > 0 and bytes > plan[2] then return 'max_bytes', 'max_bytes', q[BYTES], plan[2], bytes - plan[2] end
  local most = own.max_messages
  if most and count > 0 and messages > most then
    return 'max_messages', 'max_messages', q[COUNT], most, messages - most
  end
  most = own.max_bytes
  if most and size > 0 and bytes > most then return 'max_bytes', 'max_bytes', q[BYTES], most, bytes - most end
end

local function refuse(u, limit, cap, current, most, over)
  local q = u.q
  q[REFUSED] = q[REFUSED] + 1
  if cap == 'max_bytes' then over = over / math.max(q[BYTES] / math.max(q[COUNT], 1), 1) end
  return { 'full', limit, cap, current, most, retry_after(u, over) }
end

-- Stores messages. ARGV: 3 the plan, 4... the bodies. Further keys: of Idempotency-Keys.
--
-- The plan is {max_messages, max_bytes, max_queues, request...}. A request is {form, parts, key, fingerprint}; key
-- is the place among the further keys, or 0. A part is {number, priority, delay, ttl, type}: what so many messages
-- have in common. Form 0: each message is stored or refused by itself, and there is one part. Form 1: all or none.
--
-- The answer has for each request the id of the first message if all were stored, which all have ids that follow
-- each other. Else it is a refusal, or in form 0 a list of {'each', id or refusal, ...}.
local function put(K, A)
  local u, plan = begin(K, A), cmsgpack.unpack(A[3])
  local refusal = ensure(u, plan[3])
  if refusal then return { u.now, 0, refusal } end
  local q, settings = u.q, u.settings
  if q[COUNT] == 0 then q[LARGEST] = 0 end
  local default_ttl = settings.ttl and math.max(math.floor(settings.ttl * 1000 + 0.5), 1) or 0
  local ticked = false
  -- What is written at the end, by key
  local fields, line, ranked, delayed, mortal, claims = { '', '', '' }, {}, {}, {}, {}, {}
  local stored, claimed = 0, {}

  -- Returns the cap that is in the way, once all that is due is done: that may make room.
  local function in_the_way(count, size)
    local limit, cap, current, most, over = excess(u, plan, count, size)
    if limit and not ticked and stored == 0 then
      ticked = true
      tick(u)
      limit, cap, current, most, over = excess(u, plan, count, size)
    end
    return limit, cap, current, most, over
  end

  local function store(part, first, last)
    local priority, delay, ttl, kind = part[2], part[3], part[4], part[5]
    if ttl == 0 then ttl = default_ttl end
    local expires = ttl > 0 and u.now + ttl or 0
    local before = head(priority, expires, kind, '')
    local is_plain = priority == 0 and expires == 0 and delay == 0
    local id, size, largest, at = q[NEXT], 0, q[LARGEST], #fields
    for place = first, last do
      local body = A[place]
      local length = #body
      size = size + length
      if length > largest then largest = length end
      fields[at + 1], fields[at + 2] = id, before .. body
      at = at + 2
      if is_plain then
        line[#line + 1] = id
      else
        local member = badge(priority, expires > 0, id) .. string.format('-%x', length)
        if delay > 0 then
          local due = u.now + delay
          if expires > 0 and expires < due then due = expires end
          delayed[#delayed + 1], delayed[#delayed + 2] = due, member
          watch(u, due)
        else
          ranked[#ranked + 1], ranked[#ranked + 2] = id - priority * STEP, id
          if expires > 0 then
            mortal[#mortal + 1], mortal[#mortal + 2] = expires, member
            watch(u, expires)
          end
        end
      end
      id = id + 1
    end
    local number = last - first + 1
    q[NEXT], q[COUNT], q[BYTES], q[LARGEST] = id, q[COUNT] + number, q[BYTES] + size, largest
    q[ENQUEUED], stored = q[ENQUEUED] + number, stored + number
    if delay == 0 then u.ready = u.ready + number end
    return id - number
  end

  local function size_of(first, last)
    local size = 0
    for place = first, last do size = size + #A[place] end
    return size
  end

  -- Each by itself, where not all fit
  local function store_each(part, first, last)
    local results = { 'each' }
    for place = first, last do
      local limit, cap, current, most, over = in_the_way(1, #A[place])
      results[#results + 1] = limit and refuse(u, limit, cap, current, most, over) or store(part, place, place)
    end
    return results
  end

  local results, place = { u.now, 0 }, 4
  for at = 4, #plan do
    local request = plan[at]
    local parts, key, number = request[2], request[3], 0
    for _, part in ipairs(parts) do number = number + part[1] end
    local first, last, result = place, place + number - 1, nil
    place = last + 1
    if key > 0 then
      local known = claimed[key] or redis.call('GET', K[FURTHER - 1 + key])
      known = known and cmsgpack.unpack(known)
      if known and known[1] == q[BORN] and known[4] > u.now then
        result = known[2] == request[4] and { 'replayed', known[3] } or { 'reused' }
      end
    end
    if not result then
      local limit, cap, current, most, over = in_the_way(number, size_of(first, last))
      if not limit then
        result = q[NEXT]
        for _, part in ipairs(parts) do
          store(part, first, first + part[1] - 1)
          first = first + part[1]
        end
        if key > 0 then
          claimed[key] = cmsgpack.pack({ q[BORN], request[4], result, u.now + IDEMPOTENCY_WINDOW })
          claims[#claims + 1] = key
        end
      elseif request[1] == 0 and number > 1 then
        result = store_each(parts[1], first, last)
      else
        result = refuse(u, limit, cap, current, most, over)
      end
    end
    results[#results + 1] = result
  end

  -- A queue that nothing was stored in is not made.
  if stored == 0 and u.new and not u.is_default then return results end
  for _, key in ipairs(claims) do redis.call('SET', K[FURTHER - 1 + key], claimed[key], 'PX', IDEMPOTENCY_WINDOW) end
  in_pieces('RPUSH', K[L], line)
  in_pieces('ZADD', K[B], ranked)
  in_pieces('ZADD', K[D], delayed)
  in_pieces('ZADD', K[M], mortal)
  q[LINED] = q[LINED] + #ranked / 2
  if stored > AT_ONCE then
    for first = 4, #fields, AT_ONCE do
      redis.call('HSET', K[H], unpack(fields, first, math.min(first + AT_ONCE - 1, #fields)))
    end
    save(u)
  else
    save(u, fields)
  end
  results[2] = q[OUT]
  return results
end

---------------------------------------------------------------------------------------------------------------------
-- Consumers: take, give back, settle
---------------------------------------------------------------------------------------------------------------------

-- Returns the ids of the first ready messages, at most `number`, by rank, and how many of them are from l.
local function first_ready(u, number)
  local lined = redis.call('LRANGE', u.K[L], 0, number - 1)
  if u.q[LINED] == 0 then return lined, {} end
  local ranked = redis.call('ZRANGE', u.K[B], 0, number - 1, 'WITHSCORES')
  local ids, scores, at, next_ranked = {}, {}, 1, 1
  while #ids < number and (lined[at] or ranked[next_ranked]) do
    local score = ranked[next_ranked + 1]
    if score and (not lined[at] or tonumber(score) < tonumber(lined[at])) then
      ids[#ids + 1] = ranked[next_ranked]
      scores[#ids] = tonumber(score)
      next_ranked = next_ranked + 2
    else
      ids[#ids + 1] = lined[at]
      at = at + 1
    end
  end
  return ids, scores
end

-- Takes the first ready messages off their lines, at most `number` and of `room` bytes together; one in any case if
-- `room` is that of a whole batch. Appends to `taken`, and returns how many bytes they have.
--
-- What is taken is {ids, values, sizes, notes}; a note, for what is not plain: {priority, has a ttl, receives,
-- releases, is noted}.
local function pop(u, number, room, taken)
  local q, K = u.q, u.K
  local ids, values, sizes, notes = taken[1], taken[2], taken[3], taken[4]
  local at = #ids
  if q[LINED] == 0 and number * q[LARGEST] <= room then
    local popped = redis.call('LPOP', K[L], number)
    if not popped then return 0 end
    local found, sum = redis.call('HMGET', K[H], unpack(popped)), 0
    for place, id in ipairs(popped) do
      local value = found[place]
      if value then -- else it has been lost by a hand from outside
        local size = #value - head_length(value)
        at = at + 1
        ids[at], values[at], sizes[at] = id, value, size
        sum = sum + size
      end
    end
    return sum
  end
  local sum, dropped, got = 0, 0, 0
  local piece = math.max(1, math.floor(MAX_BATCH_BYTES / math.max(q[LARGEST], 1)))
  while got < number and dropped <= TICKS do
    local first, scores = first_ready(u, math.min(number - got, piece, AT_ONCE))
    if #first == 0 then break end
    local found, from_line, from_ranked, is_full = redis.call('HMGET', K[H], unpack(first)), 0, 0, false
    for place, id in ipairs(first) do
      local value, score = found[place] or '\0', scores[place]
      local size = #value - head_length(value)
      if sum + size > room and (got > 0 or room < MAX_BATCH_BYTES) then
        is_full = true
        break
      end
      local is_unfit, note = not found[place], nil
      if is_unfit then -- its body has been lost by a hand from outside
        if score then from_ranked = from_ranked + 1 else from_line = from_line + 1 end
      elseif score then
        from_ranked = from_ranked + 1
        local priority, expires = read_head(value)
        local receives, releases, lapsed, is_noted = attempts(u, id)
        if expires > 0 then redis.call('ZREM', K[M], badge(priority, true, id) .. string.format('-%x', size)) end
        if expires > 0 and expires <= u.now then
          is_unfit = true
          close_lapse(u, lapsed, END_OUTLIVED)
          drop(u, id, size, is_noted)
          q[EXPIRED] = q[EXPIRED] + 1
        elseif u.settings.max_receives and receives >= u.settings.max_receives then
          -- It came back before the setting was lowered.
          is_unfit = true
          close_lapse(u, lapsed, END_DEAD_LETTERED)
          give_up(u, id, priority, size, is_noted)
        else
          if lapsed ~= '' then
            close_lapse(u, lapsed, END_GIVEN)
            note_attempts(u, id, receives, releases, '', true)
          end
          note = { priority, expires > 0, receives, releases, is_noted }
        end
      else
        from_line = from_line + 1
      end
      if is_unfit then
        dropped = dropped + 1
      else
        got, at = got + 1, at + 1
        ids[at], values[at], sizes[at], notes[at] = id, value, size, note
        sum = sum + size
      end
    end
    if dropped > 0 then u.changed = true end
    if from_line > 0 then redis.call('LPOP', K[L], from_line) end
    if from_ranked > 0 then
      redis.call('ZREMRANGEBYRANK', K[B], 0, from_ranked - 1)
      q[LINED] = q[LINED] - from_ranked
    end
    if is_full then break end
  end
  u.ready = u.ready - dropped
  return sum
end

-- Returns why a consumer gets nothing, and when that may change: 0 if it does not by itself.
local function reason(u)
  if u.q[PAUSED] == 1 then return 'paused', 0 end
  local lease, delay = first_time(u.K[X]), first_time(u.K[D])
  if lease == 0 and delay == 0 then return 'empty', 0 end
  if delay == 0 or (lease > 0 and lease < delay) then return 'leased', lease end
  return 'delayed', delay
end

-- Enters this front end into the line for consumers, or takes it out.
local function line_up(u, front_end, consumers, since)
  if consumers > 0 then
    if since == 0 then since = u.now end
    redis.call('ZADD', u.K[W], since * 1024 + math.min(consumers, 1023), front_end)
    -- Front ends renew this all the time. If none is left, nothing is.
    redis.call('PEXPIRE', u.K[W], WAITING_KEPT)
    if u.q and u.q[WAITED] == 0 then u.q[WAITED], u.changed = 1, true end
  elseif not u.q or u.q[WAITED] == 1 then
    redis.call('ZREM', u.K[W], front_end)
  end
end

-- Gives or leases messages. ARGV: 3 the plan.
--
-- The plan is {nonce, front end, consumers, since, request...}. A request is {number, limit, lease, visibility}: so
-- many consumers one after the other want up to `limit` messages each, for good (lease 0) or as a lease (1) of so
-- many milliseconds, as the queue is set (-1), or for no time at all (0: such a request is of one consumer). If the
-- last of all get nothing, `consumers` (of which those that got something here are taken off) wait at this front end.
--
-- The answer: 3 why consumers get nothing, 4 when that may change, 5 for each request how many messages there are
-- for each of its consumers (if its limit is 1, for how many of them there is one), 6 ids, 7 values, 8 for those that
-- are not plain: place, priority, receives, releases; 9 for each request when its leases end, in milliseconds, 10 for
-- how long they last, 11 what the receipts have in common, 12 how many consumers were looked at: the others are to
-- ask again.
local function take(K, A)
  local u, plan = begin(K, A), cmsgpack.unpack(A[3])
  local nonce, front_end, consumers, since = plan[1], plan[2], plan[3], plan[4]
  local q = u.q
  if not q then
    if front_end ~= '' then line_up(u, front_end, consumers, since) end
    return missing(u)
  end
  local taken, numbers, room = { {}, {}, {}, {} }, {}, MAX_BATCH_BYTES
  local ends, lasts, got, looked, wanted = {}, {}, 0, 0, 0
  for at = 5, #plan do
    local request = plan[at]
    local number, limit, is_lease, visibility = request[1], request[2], request[3] == 1, request[4]
    wanted = wanted + number
    tick(u)
    if is_lease then
      if visibility < 0 then visibility = math.floor((u.settings.visibility or DEFAULT_VISIBILITY) * 1000 + 0.5) end
      -- A lease lasts a little longer than its consumer is told; one of no time at all is over at once.
      ends[at - 4] = u.now + visibility - (visibility > 0 and 0 or LEASE_SLACK)
      lasts[at - 4] = visibility
    else
      ends[at - 4], lasts[at - 4] = 0, 0
    end
    local from, is_cut = #taken[1], false
    if q[PAUSED] == 1 then
      looked = looked + number
      local none = {}
      for consumer = 1, number do none[consumer] = 0 end
      numbers[at - 4] = limit == 1 and 0 or none
    elseif limit == 1 then
      -- What is given to many consumers is bounded together.
      room = room - pop(u, number, got == 0 and MAX_BATCH_BYTES or room, taken)
      local more = #taken[1] - from
      numbers[at - 4] = more
      got = got + more
      looked = looked + more
      if more < number then
        -- Either there are no more, or they are too large.
        if q[COUNT] > 0 and (redis.call('LLEN', K[L]) > 0 or q[LINED] > 0) then
          is_cut = true
        else
          looked = looked + number - more
        end
      end
    else
      local each = {}
      numbers[at - 4] = each
      for consumer = 1, number do
        if got > 0 and (room < MAX_BATCH_BYTES / 2 or #taken[1] >= AT_ONCE) then
          is_cut = true
          break
        end
        local before = #taken[1]
        room = room - pop(u, limit, MAX_BATCH_BYTES, taken)
        local more = #taken[1] - before
        looked = looked + 1
        each[consumer] = more
        if more > 0 then got = got + 1 end
      end
    end
    -- They leave the queue, or are leased.
    local ids, values, sizes, notes = taken[1], taken[2], taken[3], taken[4]
    local last = #ids
    if last > from then
      if is_lease then
        local suffix = string.format('-%s%08x%08x-', nonce, q[TAG], visibility)
        local over = ends[at - 4] + LEASE_SLACK
        -- Written once: to write a number costs as much as the rest of this.
        local score, tails, members, next_member = string.format('%.0f', over), {}, {}, 1
        for place = from + 1, last do
          local note, size = notes[place], sizes[place]
          local tail = tails[size]
          if not tail then
            tail = suffix .. string.format('%x', size)
            tails[size] = tail
          end
          local first = note and badge(note[1], note[2], ids[place]) or string.format('90%012x', ids[place])
          members[next_member], members[next_member + 1] = score, first .. tail
          next_member = next_member + 2
        end
        in_pieces('ZADD', K[X], members)
        q[RECEIVED] = q[RECEIVED] + last - from
        watch(u, over)
      else
        local gone, size = {}, 0
        for place = from + 1, last do
          gone[#gone + 1] = ids[place]
          size = size + sizes[place]
          if notes[place] and notes[place][5] then
            gone[#gone + 1] = 'c' .. ids[place]
            q[NOTED] = q[NOTED] - 1
          end
        end
        in_pieces('HDEL', K[H], gone)
        q[COUNT], q[BYTES] = q[COUNT] - (last - from), q[BYTES] - size
        q[DEQUEUED] = q[DEQUEUED] + last - from
      end
    end
    if is_cut then break end
  end
  u.ready = u.ready - #taken[1]
  if front_end ~= '' then line_up(u, front_end, consumers - got, since) end
  local why, due = '', 0
  if got < wanted then why, due = reason(u) end
  if u.changed or #taken[1] > 0 then save(u) end
  local notes = {}
  for place, note in pairs(taken[4]) do
    local at = #notes
    notes[at + 1], notes[at + 2], notes[at + 3], notes[at + 4] = place, note[1], note[3], note[4]
  end
  return answer(
    u, why, due, numbers, taken[1], taken[2], notes, ends, lasts, string.format('%s%08x', nonce, q[TAG]), looked
  )
end

-- Puts messages back at their places that could not be handed over, as if they had not been taken. ARGV: 3 the plan
-- {how many messages may or may not have been handed over, receipts, {{id, priority, receives, releases, the rest of
-- the ttl or 0, type, origin}, ...}}; 4... the bodies of those that were given for good. Never refused: all of it was
-- accepted once.
local function give_back(K, A)
  local u, plan = begin(K, A), cmsgpack.unpack(A[3])
  local q = u.q
  if not q then return missing(u) end
  q[UNCERTAIN] = q[UNCERTAIN] + plan[1]
  for _, receipt in ipairs(plan[2]) do
    local priority, is_mortal, id, size = parse(receipt)
    if redis.call('ZREM', K[X], receipt) == 1 then
      note_end(u, receipt, END_UNKNOWN)
      q[RECEIVED], q[RETURNED] = q[RECEIVED] - 1, q[RETURNED] + 1
      make_ready(u, id, priority, size, is_mortal and expiry(u, id) or 0)
    end
  end
  for place, about in ipairs(plan[3]) do
    local id, priority, receives, releases, left, kind, origin = unpack(about)
    local body = A[3 + place]
    local expires = left > 0 and u.now + left or 0
    -- What is there already was put back before, or a failover has lost that it was taken.
    if redis.call('HSETNX', K[H], id, head(priority, expires, kind, origin) .. body) == 1 then
      local size = #body
      q[COUNT], q[BYTES], q[RETURNED] = q[COUNT] + 1, q[BYTES] + size, q[RETURNED] + 1
      q[LARGEST] = math.max(q[LARGEST], size)
      if id >= q[NEXT] then q[NEXT] = id + 1 end
      if receives > 0 or releases > 0 then note_attempts(u, id, receives, releases, '', false) end
      make_ready(u, id, priority, size, expires)
    end
  end
  tick(u)
  save(u)
  return answer(u)
end

-- Acknowledges many leases at once. Returns nothing if one of them is not simply going on.
local function ack_all(u, receipts)
  local q, K, number = u.q, u.K, #receipts
  local found = redis.call('ZMSCORE', K[X], unpack(receipts))
  local gone, size = {}, 0
  for place = 1, number do
    local score = found[place]
    if not score or tonumber(score) <= u.now then return false end
    gone[place] = id_of(receipts[place])
    size = size + tonumber(string.sub(receipts[place], SIZE_OF_RECEIPT), 16)
  end
  if redis.call('ZREM', K[X], unpack(receipts)) < number then
    -- One of them came twice. It counts once, and repeating it is fine.
    local seen, ids = {}, {}
    size = 0
    for place = 1, number do
      if not seen[receipts[place]] then
        seen[receipts[place]] = true
        ids[#ids + 1] = gone[place]
        size = size + tonumber(string.sub(receipts[place], SIZE_OF_RECEIPT), 16)
      end
    end
    gone = ids
  end
  local count = #gone
  redis.call('HDEL', K[H], unpack(gone))
  if q[NOTED] > 0 then
    local noted = {}
    for place = 1, count do noted[place] = string.format('c%d', gone[place]) end
    q[NOTED] = q[NOTED] - redis.call('HDEL', K[H], unpack(noted))
  end
  q[COUNT], q[BYTES], q[ACKED] = q[COUNT] - count, q[BYTES] - size, q[ACKED] + count
  return true
end

-- Says how a lease ended that is over: 1 more than the number of core/leases.py.
local function over(u, receipt, id)
  local noted = redis.call('ZSCORE', u.K[E], receipt)
  if noted then return tonumber(noted) % 8 + 1 end
  -- It did not end otherwise than by an acknowledgement, and its message has gone.
  if id < u.q[NEXT] and id >= u.q[PURGED] and redis.call('HEXISTS', u.K[H], id) == 0 then return END_ACKED + 1 end
  return END_UNKNOWN + 1
end

local function settle_one(u, action, receipt, number)
  local q, K = u.q, u.K
  local priority, is_mortal, id, size = parse(receipt)
  if not id then return END_UNKNOWN + 1 end
  if tonumber(string.sub(receipt, TAG_OF_RECEIPT, TAG_OF_RECEIPT + 7), 16) ~= q[TAG] then return OF_ANOTHER end
  local until_ = redis.call('ZSCORE', K[X], receipt)
  if until_ and tonumber(until_) <= u.now then
    lapse(u, receipt)
    until_ = nil
  end
  if action == 0 then
    if until_ then
      redis.call('ZREM', K[X], receipt)
      local _, _, _, is_noted = attempts(u, id)
      drop(u, id, size, is_noted)
    else
      local _, _, lapsed, is_noted = attempts(u, id)
      if lapsed ~= receipt then
        local how = over(u, receipt, id)
        return how == END_ACKED + 1 and 0 or how
      end
      -- It came back, and no consumer has been given it since.
      redis.call('ZREM', K[E], receipt)
      redis.call('ZREM', K[B], id)
      q[LINED], u.ready = q[LINED] - 1, u.ready - 1
      if is_mortal then redis.call('ZREM', K[M], badge(priority, true, id) .. string.format('-%x', size)) end
      drop(u, id, size, is_noted)
    end
    q[ACKED] = q[ACKED] + 1
    return 0
  end
  if not until_ then return over(u, receipt, id) end
  if action == 2 then
    if number < 0 then number = tonumber(string.sub(receipt, TIME_OF_RECEIPT, TIME_OF_RECEIPT + 7), 16) end
    local last = u.now + number + (number > 0 and LEASE_SLACK or 0)
    redis.call('ZADD', K[X], last, receipt)
    watch(u, last)
    local receives, releases = attempts(u, id)
    return { last - LEASE_SLACK, kept(u, id), receives, releases }
  end
  redis.call('ZREM', K[X], receipt)
  q[RELEASED] = q[RELEASED] + 1
  note_end(u, receipt, END_RELEASED)
  come_back(u, id, priority, is_mortal, size, number, true, '')
  return 0
end

-- Ends or extends leases. ARGV: 3 the plan, 4... receipts. The plan is {} if all are to be acknowledged, else
-- {action, milliseconds, ...} for each: 0 acknowledge, 1 release after so long, 2 extend to so long from now (-1:
-- as it was given).
--
-- The answer is 0 if all were acknowledged. Else it is a list: 0 for done, {until, value, receives, releases} for an
-- extended lease, or how the lease ended that is over.
local function settle(K, A)
  local u, plan = begin(K, A), cmsgpack.unpack(A[3])
  if not u.q then return missing(u) end
  tick(u)
  local results
  local is_simple = #plan == 0 and #A - 3 <= AT_ONCE
  if is_simple then
    is_simple = ack_all(u, { unpack(A, 4) })
  end
  if is_simple then
    results = 0
  else
    results = {}
    for place = 4, #A do
      local at = 2 * (place - 4)
      results[place - 3] = settle_one(u, plan[at + 1] or 0, A[place], plan[at + 2] or 0)
    end
  end
  save(u)
  return answer(u, results)
end

---------------------------------------------------------------------------------------------------------------------
-- Looking: peek, find, describe
---------------------------------------------------------------------------------------------------------------------

-- Does what is due before a look, for a client that asks must not be told of what is over.
local function look(K, A)
  local u = begin(K, A)
  if u.q and u.q[DUE] > 0 and u.q[DUE] <= u.now then
    tick(u)
    save(u)
  end
  return u
end

-- Returns a message as a look shows it: id, value, receives, releases, state, when it is ready again.
local function view(u, id, value, state, at)
  local receives, releases = attempts(u, id)
  return { id, value, receives, releases, state, at }
end

-- Shows messages. ARGV: 3 the plan {state, limit}: 0 ready, 1 delayed, 2 leased. No more than a batch has bytes.
local function peek(K, A)
  local u, plan = look(K, A), cmsgpack.unpack(A[3])
  if not u.q then return missing(u) end
  local state, limit, ids, times = plan[1], plan[2], {}, {}
  if state == 0 then
    ids = first_ready(u, limit)
  else
    local found = redis.call('ZRANGE', state == 1 and K[D] or K[X], 0, limit - 1, 'WITHSCORES')
    for at = 1, #found, 2 do
      local _, _, id = parse(found[at])
      ids[#ids + 1] = string.format('%d', id)
      times[#ids] = found[at + 1] - (state == 2 and LEASE_SLACK or 0)
    end
  end
  local views, size, piece = {}, 0, math.max(1, math.floor(MAX_BATCH_BYTES / math.max(u.q[LARGEST], 1)))
  for first = 1, #ids, piece do
    local last = math.min(first + piece - 1, #ids)
    for at, value in ipairs(redis.call('HMGET', K[H], unpack(ids, first, last))) do
      local place = first + at - 1
      if value then
        size = size + #value
        if size > MAX_BATCH_BYTES and #views > 0 then return answer(u, views) end
        views[#views + 1] = view(u, ids[place], value, state, times[place] or 0)
      end
    end
  end
  return answer(u, views)
end

-- Returns the receipt of the lease on a message, and when it ends. Its receipt is not known, so all leases are
-- looked through; those of the same beginning lie together only where their times are equal.
local function find_lease(u, badge_of)
  local first = 0
  while true do
    local found = redis.call('ZRANGE', u.K[X], first, first + AT_ONCE - 1, 'WITHSCORES')
    for at = 1, #found, 2 do
      if string.sub(found[at], 1, 14) == badge_of then return found[at], tonumber(found[at + 1]) end
    end
    if #found < 2 * AT_ONCE then return nil end
    first = first + AT_ONCE
  end
end

-- Shows one message. ARGV: 3 its id.
local function find(K, A)
  local u = look(K, A)
  if not u.q then return missing(u) end
  local id = tonumber(A[3])
  local value = redis.call('HGET', K[H], id)
  if not value then return answer(u, 0) end
  local priority, expires = read_head(value)
  local of = badge(priority, expires > 0, id)
  local due = redis.call('ZSCORE', K[D], of .. string.format('-%x', #value - head_length(value)))
  if due then return answer(u, view(u, id, value, 1, tonumber(due))) end
  local first = redis.call('LINDEX', K[L], 0)
  -- The ids in l rise, and a plain one that is not yet given out is there.
  local is_in_line = first and id >= tonumber(first) and priority == 0 and expires == 0
  if not is_in_line and not redis.call('ZSCORE', K[B], id) then
    local _, ends = find_lease(u, of)
    if ends then return answer(u, view(u, id, value, 2, ends - LEASE_SLACK)) end
  end
  return answer(u, view(u, id, value, 0, 0))
end

-- Returns what a queue holds and has done: messages, bytes, delayed, leased, paused, and what it has counted.
local function figures_of(q, delayed, leased)
  local row = { q[COUNT], q[BYTES], delayed, leased, q[PAUSED], q[OUT] }
  for place = ENQUEUED, UNCERTAIN do row[#row + 1] = q[place] end
  return row
end

-- Shows settings and figures.
local function describe(K, A)
  local u = look(K, A)
  if not u.q then return missing(u) end
  local row = figures_of(u.q, redis.call('ZCARD', K[D]), redis.call('ZCARD', K[X]))
  return answer(u, row, redis.call('HGET', K[H], 'c') or '')
end

---------------------------------------------------------------------------------------------------------------------
-- Operators: configure, pause, purge, delete
---------------------------------------------------------------------------------------------------------------------

-- Sets all that can be set, and makes a queue that is not there. ARGV: 3 how many queues the shard may have, 4 the
-- settings, packed, 5 those that must have been set before: if there is one. Answers whether it was made, and what
-- was set before; or 'changed' if other settings were there.
local function configure(K, A)
  local u = begin(K, A)
  if A[5] and not u.q then return missing(u) end
  local before = redis.call('HGET', K[H], 'c') or ''
  if A[5] and A[5] ~= before then return answer(u, 'changed') end
  local is_made = not u.q
  local refusal = ensure(u, tonumber(A[3]))
  if refusal then return { u.now, 0, refusal } end
  if A[4] == '' then redis.call('HDEL', K[H], 'c') else redis.call('HSET', K[H], 'c', A[4]) end
  save(u)
  return answer(u, is_made and 1 or 0, before)
end

-- Notes that dead letters of a queue come here, or no longer do; makes the queue if need be. ARGV: 3 the plan
-- {max_queues, name of the other queue, whether they come}.
local function feed(K, A)
  local u, plan = begin(K, A), cmsgpack.unpack(A[3])
  if not plan[3] and not u.q then return missing(u) end
  local refusal = ensure(u, plan[1])
  if refusal then return { u.now, 0, refusal } end
  local noted, kept = redis.call('HGET', K[H], 'f'), {}
  for _, name in ipairs(noted and cmsgpack.unpack(noted) or {}) do
    if name ~= plan[2] then kept[#kept + 1] = name end
  end
  if plan[3] then kept[#kept + 1] = plan[2] end
  if #kept == 0 then redis.call('HDEL', K[H], 'f') else redis.call('HSET', K[H], 'f', cmsgpack.pack(kept)) end
  save(u)
  return answer(u, 'noted')
end

-- Stops giving messages, or goes on. ARGV: 3 0 or 1.
local function pause(K, A)
  local u = begin(K, A)
  if not u.q then return missing(u) end
  local q = u.q
  q[PAUSED] = tonumber(A[3])
  tick(u)
  if q[PAUSED] == 0 then u.ready = redis.call('LLEN', K[L]) + q[LINED] end
  save(u)
  return answer(u, 'done')
end

local function empty(u)
  local K, q = u.K, u.q
  local kept = redis.call('HMGET', K[H], 'c', 'r', 'f')
  redis.call('UNLINK', K[H], K[L], K[B], K[D], K[X], K[M])
  for place, field in ipairs({ 'c', 'r', 'f' }) do
    if kept[place] then redis.call('HSET', K[H], field, kept[place]) end
  end
  q[CLEARED] = q[CLEARED] + q[COUNT]
  q[COUNT], q[BYTES], q[DUE], q[LINED], q[NOTED], q[LARGEST], q[PURGED] = 0, 0, 0, 0, 0, 0, q[NEXT]
end

-- Drops every message; answers how many. What is in the outbox belongs to other queues already.
local function purge(K, A)
  local u = begin(K, A)
  if not u.q then return missing(u) end
  tick(u)
  local number = u.q[COUNT]
  empty(u)
  u.ready = 0
  save(u)
  return answer(u, number)
end

-- Removes a queue. ARGV: 3 names of queues of which it is known that their dead letters do not come here, packed.
-- Further keys: `past`, and `g`. Answers 'fed' and the queues whose dead letters come here, 'outbox' if messages for
-- other queues are to be moved first, or 'done'.
local function delete(K, A)
  local u, wrong = begin(K, A), {}
  if not u.q then return missing(u) end
  for _, name in ipairs(cmsgpack.unpack(A[3])) do wrong[name] = true end
  local noted, feeders = redis.call('HGET', K[H], 'f'), {}
  for _, name in ipairs(noted and cmsgpack.unpack(noted) or {}) do
    if not wrong[name] then feeders[#feeders + 1] = name end
  end
  if #feeders > 0 then return answer(u, 'fed', feeders) end
  tick(u)
  local q = u.q
  if q[OUT] > 0 then
    save(u)
    return answer(u, 'outbox')
  end
  q[CLEARED] = q[CLEARED] + q[COUNT]
  q[COUNT], q[BYTES] = 0, 0
  local tag, name = names(u)
  local past = redis.call('GET', K[FURTHER])
  local row = figures_of(q, 0, 0)
  for place, number in ipairs(past and cmsgpack.unpack(past) or {}) do row[place] = row[place] + number end
  redis.call('SET', K[FURTHER], cmsgpack.pack(row))
  while true do
    local first = redis.call('ZPOPMIN', K[W])
    if not first[1] then break end
    redis.call('SPUBLISH', tag .. ':wake:' .. first[1], '-' .. name)
  end
  redis.call('UNLINK', K[H], K[L], K[B], K[D], K[X], K[M], K[E], K[O], K[FURTHER + 1])
  redis.call('ZREM', K[NAMES], name)
  redis.call('ZREM', K[DUE_INDEX], name)
  return { u.now, 0, 'done' }
end

---------------------------------------------------------------------------------------------------------------------
-- Dead letters: from one queue to another, which may be in another shard
---------------------------------------------------------------------------------------------------------------------
--
-- Two slots cannot be changed in one step. So a message that leaves a queue for another enters the first one's
-- outbox in the step in which it leaves. Some front end then reads the outbox (`outbox`), has the other queues take
-- over what is theirs (`adopt`), and strikes it out (`done`). Each of these may be done twice, or by two front ends
-- at once: entries are numbered, they are adopted in their order, and a queue remembers the last number it has from
-- each outbox.

-- Shows the first entries of the outbox: {number, target, priority, value}, as many as a batch has bytes.
-- ARGV: 3 how many at most. The first answer is when the queue was made, as its name in `adopt`.
local function outbox(K, A)
  local u = begin(K, A)
  if not u.q then return missing(u) end
  local entries, size = {}, 0
  for _, entry in ipairs(redis.call('LRANGE', K[O], 0, tonumber(A[3]) - 1)) do
    size = size + #entry
    if size > MAX_BATCH_BYTES and #entries > 0 then break end
    entries[#entries + 1] = cmsgpack.unpack(entry)
  end
  return answer(u, u.q[BORN], entries)
end

-- Takes messages over from the outbox of another queue, at the end, with ids of this queue. Never refused: they were
-- accepted once. ARGV: 3 the plan {the outbox, number, priority, number, priority, ...}, 4... values.
-- Further key: `g`.
local function adopt(K, A)
  local u, plan = begin(K, A), cmsgpack.unpack(A[3])
  ensure(u, 0)
  local q, from = u.q, plan[1]
  local last = tonumber(redis.call('HGET', K[FURTHER], from) or 0)
  local fields, taken = { '', '', '' }, 0
  for place = 4, #A do
    local number, priority = plan[2 * (place - 3)], plan[2 * (place - 3) + 1]
    if number > last then
      local value, id = A[place], q[NEXT]
      local size = #value - head_length(value)
      local _, _, _, origin = read_head(value)
      q[NEXT], q[COUNT], q[BYTES], q[ARRIVED] = id + 1, q[COUNT] + 1, q[BYTES] + size, q[ARRIVED] + 1
      q[LARGEST] = math.max(q[LARGEST], size)
      fields[#fields + 1], fields[#fields + 2] = id, value
      if origin == '' and priority == 0 then
        redis.call('RPUSH', K[L], id)
        u.ready = u.ready + 1
      else
        make_ready(u, id, priority, size, 0)
      end
      last, taken = number, taken + 1
    end
  end
  redis.call('HSET', K[FURTHER], from, string.format('%d', last))
  save(u, fields)
  return answer(u, taken)
end

-- Strikes out what was adopted. ARGV: 3 when the queue was made, 4 the number of the last entry of these.
local function done(K, A)
  local u = begin(K, A)
  local q = u.q
  if not q or q[BORN] ~= tonumber(A[3]) then return missing(u) end
  local last, struck = tonumber(A[4]), 0
  while true do
    local entry = redis.call('LINDEX', K[O], 0)
    if not entry or cmsgpack.unpack(entry)[1] > last then break end
    redis.call('LPOP', K[O])
    struck = struck + 1
  end
  q[OUT] = q[OUT] - struck
  if struck > 0 then save(u) end
  return answer(u, struck)
end

-- Shows in which queues the dead letters here failed, of the first ones that a redrive would look at.
local function letters(K, A)
  local u = look(K, A)
  if not u.q then return missing(u) end
  local origins, seen = {}, {}
  for first = 0, REDRIVE_LOOKS - 1, 100 do
    local ids = redis.call('ZRANGE', K[B], first, first + 99)
    if #ids == 0 then break end
    for _, value in ipairs(redis.call('HMGET', K[H], unpack(ids))) do
      if value then
        local _, _, _, origin = read_head(value)
        if origin ~= '' and not seen[origin] then
          seen[origin] = true
          origins[#origins + 1] = origin
        end
      end
    end
  end
  return answer(u, origins)
end

-- Shows how much room there is under a queue's own caps: messages, bytes; -1 if there is no cap.
local function room(K, A)
  local u = look(K, A)
  if not u.q then return missing(u) end
  local q, own = u.q, u.settings
  return answer(
    u,
    own.max_messages and math.max(own.max_messages - q[COUNT], 0) or -1,
    own.max_bytes and math.max(own.max_bytes - q[BYTES], 0) or -1
  )
end

-- Sends dead letters that are ready back to where they failed, by the outbox. ARGV: 3 the plan {limit, {name,
-- messages, bytes, ...}}: the room in each queue that letters can go to. They begin anew there. Answers how many,
-- and how many ready messages are left.
local function redrive(K, A)
  local u, plan = begin(K, A), cmsgpack.unpack(A[3])
  if not u.q then return missing(u) end
  tick(u)
  local q, left, rooms = u.q, plan[1], {}
  for at = 1, #plan[2], 3 do rooms[plan[2][at]] = { plan[2][at + 1], plan[2][at + 2] } end
  local moved, looks, first = 0, 0, 0
  while left > moved and looks < REDRIVE_LOOKS and next(rooms) do
    -- What was moved has left the line, so those that stay are counted.
    local ids = redis.call('ZRANGE', K[B], first, first + 99)
    if #ids == 0 then break end
    for at, value in ipairs(redis.call('HMGET', K[H], unpack(ids))) do
      local id, priority, expires, kind, origin = ids[at], 0, 0, '', ''
      if value then priority, expires, kind, origin = read_head(value) end
      local there, goes = rooms[origin], false
      if there and origin ~= '' then
        looks = looks + 1
        local body = string.sub(value, head_length(value) + 1)
        local messages, bytes = there[1], there[2]
        if messages ~= 0 and (bytes < 0 or #body <= bytes) then
          goes = true
          if messages > 0 then there[1] = messages - 1 end
          if bytes >= 0 then there[2] = bytes - #body end
          send(u, origin, priority, head(priority, 0, kind, '') .. body)
          local _, _, lapsed, is_noted = attempts(u, id)
          close_lapse(u, lapsed, END_GIVEN)
          redis.call('ZREM', K[B], id)
          if expires > 0 then redis.call('ZREM', K[M], badge(priority, true, id) .. string.format('-%x', #body)) end
          drop(u, id, #body, is_noted)
          q[LINED], u.ready = q[LINED] - 1, u.ready - 1
          moved = moved + 1
        elseif messages == 0 or bytes < 1 then
          rooms[origin] = nil
        end
      end
      if not goes then first = first + 1 end
      if moved == left or looks == REDRIVE_LOOKS then break end
    end
  end
  q[REDRIVEN] = q[REDRIVEN] + moved
  save(u)
  return answer(u, moved, redis.call('LLEN', K[L]) + q[LINED])
end

---------------------------------------------------------------------------------------------------------------------
-- Long polls: a front end that waits no longer
---------------------------------------------------------------------------------------------------------------------

-- Takes a front end out of the line for consumers. ARGV: 3 the front end. If it was told of messages that it has no
-- consumer for any more, the next one in the line is told instead.
local function leave(K, A)
  local u = begin(K, A)
  redis.call('ZREM', K[W], A[3])
  local q = u.q
  if q and not u.new and q[WAITED] == 1 and q[PAUSED] == 0 then
    u.ready = redis.call('LLEN', K[L]) + q[LINED]
    if u.ready > 0 then save(u) end
  end
  return answer(u)
end

---------------------------------------------------------------------------------------------------------------------
-- The shard: what is due, which queues there are, what they hold
---------------------------------------------------------------------------------------------------------------------

-- Returns the names of queues in which something is due, at most ARGV[3], and lets others not see them for ARGV[4]
-- milliseconds: the front end that asked calls `due` for each. If it does not, they are seen again then.
-- KEYS: 1 due, 2 queues.
local function sweep(K, A)
  local now = time()
  if A[2] ~= '' and TEST then now = tonumber(A[2]) end
  local found = redis.call('ZRANGE', K[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, tonumber(A[3]))
  for _, name in ipairs(found) do redis.call('ZADD', K[1], 'XX', now + tonumber(A[4]), name) end
  return { now, 0, found }
end

-- Does what is due in a queue, and puts right when the next is. Answers 1 if there is more to do now.
local function due(K, A)
  local u = begin(K, A)
  local _, name = names(u)
  if not u.q or u.new then
    redis.call('ZREM', K[DUE_INDEX], name)
    return missing(u)
  end
  local q, more = u.q, tick(u)
  local at = q[DUE]
  -- Once more in a while, if the outbox is not emptied.
  if q[OUT] > 0 then at = earliest(at, u.now + 2000) end
  if at > 0 then redis.call('ZADD', K[DUE_INDEX], at, name) else redis.call('ZREM', K[DUE_INDEX], name) end
  q[INDEXED] = at
  u.sent = false
  save(u)
  return answer(u, more and 1 or 0)
end

-- Returns names of queues after ARGV[3], at most ARGV[4], with their figures and settings; changes nothing, so what
-- became due a moment ago may not be in them. KEYS: 1 due, 2 queues, 3 past.
local function figures(K, A)
  local now = time()
  local after = A[3] == '' and '-' or '(' .. A[3]
  local found = redis.call('ZRANGE', K[2], after, '+', 'BYLEX', 'LIMIT', 0, tonumber(A[4]))
  local before, rows = string.match(K[2], '^({z%d+})') .. ':q:', {}
  for _, name in ipairs(found) do
    local key = before .. name .. ':'
    local kept = redis.call('HMGET', key .. 'h', 's', 'c')
    if kept[1] then
      local q = cmsgpack.unpack(kept[1])
      local row = figures_of(q, redis.call('ZCARD', key .. 'd'), redis.call('ZCARD', key .. 'x'))
      rows[#rows + 1] = { name, row, kept[2] or '' }
    end
  end
  return { now, 0, rows, found[#found] or '' }
end

-- As `figures`, but answers the sum of all its queues and how many they are; with the first of them, that of
-- deleted ones as well.
local function sums(K, A)
  local all = figures(K, A)
  local row, past = nil, A[3] == '' and redis.call('GET', K[3])
  if past then row = cmsgpack.unpack(past) end
  for _, each in ipairs(all[3]) do
    if row then
      for place, number in ipairs(each[2]) do row[place] = row[place] + number end
    else
      row = each[2]
    end
  end
  return { all[1], 0, row or {}, #all[3], all[4] }
end

---------------------------------------------------------------------------------------------------------------------
-- Repair: what agrees with nothing
---------------------------------------------------------------------------------------------------------------------

-- Returns the sizes of the bodies with these ids together, and that of the largest.
local function sizes_of(u, ids)
  local sum, largest = 0, 0
  for first = 1, #ids, 16 do
    local last = math.min(first + 15, #ids)
    for _, value in ipairs(redis.call('HMGET', u.K[H], unpack(ids, first, last))) do
      local size = #value - head_length(value)
      sum, largest = sum + size, math.max(largest, size)
    end
  end
  return sum, largest
end

-- Compares what a queue says with what it holds. No function leaves it otherwise, but hands from outside may, and a
-- server that lost a part of its files. ARGV: 3 whether to mend it, 4 how many fields h may have: this is one step.
--
-- Answers 'large' and their number if there are more. Else: messages that were nowhere, which are made ready; entries
-- without a message, which go; entries of messages that are elsewhere as well, which go, so that a leased message is
-- given to no other consumer; notes of messages that are gone; and 1 if its figures were wrong.
local function repair(K, A)
  local u, is_mending = begin(K, A), A[3] == '1'
  local fields = redis.call('HLEN', K[H])
  if not u.q and fields == 0 then return missing(u) end
  if fields > tonumber(A[4]) then return answer(u, 'large', fields) end
  if is_mending then ensure(u, 0) end
  local bodies, notes, highest = {}, {}, 0
  for _, field in ipairs(redis.call('HKEYS', K[H])) do
    if string.find(field, '^%d+$') then
      bodies[field] = true
      highest = math.max(highest, tonumber(field))
    elseif string.find(field, '^c%d+$') then
      notes[#notes + 1] = field
    end
  end
  local place_of, strays, doubles = {}, 0, 0
  -- Those that consumers know of come first, for there they stay.
  for _, place in ipairs({ X, D, B, L }) do
    local key = K[place]
    local members = place == L and redis.call('LRANGE', key, 0, -1) or redis.call('ZRANGE', key, 0, -1)
    for _, member in ipairs(members) do
      local id = member
      if place == X or place == D then
        id = #member >= 16 and id_of(member)
        id = id and string.format('%d', id)
      end
      if id and bodies[id] and not place_of[id] then
        place_of[id] = place
      else
        if id and bodies[id] then doubles = doubles + 1 else strays = strays + 1 end
        if is_mending then
          if place ~= L then
            redis.call('ZREM', key, member)
          elseif id and place_of[id] == L then
            redis.call('LREM', key, -1, member) -- the last, for the first is the one that counts
          else
            redis.call('LREM', key, 1, member)
          end
        end
      end
    end
  end
  for _, member in ipairs(redis.call('ZRANGE', K[M], 0, -1)) do
    local id = #member >= 16 and id_of(member)
    if not id or place_of[string.format('%d', id)] ~= B then
      strays = strays + 1
      if is_mending then redis.call('ZREM', K[M], member) end
    end
  end
  local ids, lost, idle_notes = {}, {}, {}
  for id in pairs(bodies) do
    ids[#ids + 1] = id
    if not place_of[id] then lost[#lost + 1] = id end
  end
  for _, field in ipairs(notes) do
    if not bodies[string.sub(field, 2)] then idle_notes[#idle_notes + 1] = field end
  end
  if is_mending then
    in_pieces('HDEL', K[H], idle_notes)
    for _, id in ipairs(lost) do
      local value = kept(u, id)
      local priority, expires = read_head(value)
      make_ready(u, id, priority, #value - head_length(value), expires)
    end
  end
  local q = u.q or newborn(K[H], u.born)
  local bytes, largest = sizes_of(u, ids)
  local true_figures = {
    [COUNT] = #ids, [BYTES] = bytes, [LINED] = redis.call('ZCARD', K[B]), [NOTED] = #notes - #idle_notes,
    [OUT] = redis.call('LLEN', K[O]),
  }
  local is_wrong = q[NEXT] <= highest or q[LARGEST] < largest
  q[NEXT], q[LARGEST] = math.max(q[NEXT], highest + 1), math.max(q[LARGEST], largest)
  for place, number in pairs(true_figures) do
    if q[place] ~= number and not (is_mending and place == LINED and q[place] == number - #lost) then is_wrong = true end
    q[place] = number
  end
  if is_mending then
    q[DUE] = earliest(first_time(K[X]), first_time(K[D]), first_time(K[M]))
    q[INDEXED], u.sent, u.new = 0, q[OUT] > 0, true
    save(u)
  end
  return answer(u, #lost, strays, doubles, #idle_notes, is_wrong and 1 or 0)
end

---------------------------------------------------------------------------------------------------------------------

local function version()
  return VERSION
end

-- What frees memory, or only looks, works as well when the server has none left.
local function offer(name, callback, ...)
  redis.register_function({ function_name = 'zapq_1_' .. name, callback = callback, flags = { ... } })
end

offer('put', put)
offer('take', take, 'allow-oom')
offer('give_back', give_back, 'allow-oom')
offer('settle', settle, 'allow-oom')
offer('peek', peek, 'allow-oom')
offer('find', find, 'allow-oom')
offer('describe', describe, 'allow-oom')
offer('configure', configure)
offer('feed', feed)
offer('pause', pause, 'allow-oom')
offer('purge', purge, 'allow-oom')
offer('delete', delete, 'allow-oom')
offer('outbox', outbox, 'no-writes')
offer('adopt', adopt)
offer('done', done, 'allow-oom')
offer('letters', letters, 'allow-oom')
offer('room', room, 'allow-oom')
offer('redrive', redrive)
offer('leave', leave, 'allow-oom')
offer('sweep', sweep, 'allow-oom')
offer('due', due, 'allow-oom')
offer('figures', figures, 'no-writes')
offer('sums', sums, 'no-writes')
offer('repair', repair, 'allow-oom')
offer('version', version, 'no-writes')
