-- A step on a queue: reading its state, and writing it

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
    -- An earlier version of the library knew fewer places.
    for place = #u.q + 1, PLACES do u.q[place] = 0 end
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
  if q then u.first, u.held = q[NEXT], q[COUNT] else u.first, u.held = 1, 0 end
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
  if u.has_spent then
    fields = fields or { '', '', '' }
    local at = #fields
    fields[at + 1], fields[at + 2] = 'p', string.format('%.17g', u.full_at)
  end
  if q[NEXT] > u.first and (u.now - q[NOTED_AT] >= arrivals.every or u.now < q[NOTED_AT]) then
    fields = fields or { '', '', '' }
    local at = #fields
    fields[at + 1], fields[at + 2] = 't', arrivals.noted(u)
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
