-- Operators: configure, pause, purge, delete

-- Sets all that can be set, and makes a queue that is not there. ARGV: 3 how many queues the shard may have, 4 the
-- settings, packed, 5 those that must have been set before: if there is one. Answers whether it was made, and what
-- was set before; or 'changed' if other settings were there.
function verbs.configure(K, A)
  local u = begin(K, A)
  if A[5] and not u.q then return missing(u) end
  local before = redis.call('HGET', K[H], 'c') or ''
  if A[5] and A[5] ~= before then return answer(u, 'changed') end
  local is_made = not u.q
  local refusal = ensure(u, tonumber(A[3]))
  if refusal then return { u.now, 0, refusal } end
  local own = A[4] == '' and {} or cmsgpack.unpack(A[4])
  groups.configure(u, own)
  if own.rate ~= u.settings.rate or burst_of(own) ~= burst_of(u.settings) then redis.call('HDEL', K[H], 'p') end
  if u.settings.rate or u.settings.max_leased then
    -- Consumers that these limits held back try again.
    u.ready = number_to_give(u)
  end
  if A[4] == '' then redis.call('HDEL', K[H], 'c') else redis.call('HSET', K[H], 'c', A[4]) end
  save(u)
  return answer(u, is_made and 1 or 0, before)
end

-- Notes that dead letters of a queue come here, or no longer do; makes the queue if need be. ARGV: 3 the plan
-- {max_queues, name of the other queue, whether they come}.
function verbs.feed(K, A)
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
function verbs.pause(K, A)
  local u = begin(K, A)
  if not u.q then return missing(u) end
  local q = u.q
  q[PAUSED] = tonumber(A[3])
  tick(u)
  if q[PAUSED] == 0 then u.ready = number_to_give(u) end
  save(u)
  return answer(u, 'done')
end

local function empty(u)
  local K, q = u.K, u.q
  local kept = redis.call('HMGET', K[H], 'c', 'r', 'f', 'p')
  redis.call('UNLINK', K[H], K[L], K[B], K[D], K[X], K[M], K[IN_GROUPS], K[BY_GROUP], K[TURNS])
  for place, field in ipairs({ 'c', 'r', 'f', 'p' }) do
    if kept[place] then redis.call('HSET', K[H], field, kept[place]) end
  end
  q[CLEARED] = q[CLEARED] + q[COUNT]
  q[COUNT], q[BYTES], q[DUE], q[LINED], q[NOTED], q[LARGEST], q[PURGED] = 0, 0, 0, 0, 0, 0, q[NEXT]
  q[GROUPED], q[KEYS_FIRST], q[KEYS_NEXT], q[NOTED_AT] = 0, 0, 0, 0
end

-- Drops every message; answers how many. What is in the outbox belongs to other queues already.
function verbs.purge(K, A)
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
function verbs.delete(K, A)
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
  redis.call(
    'UNLINK', K[H], K[L], K[B], K[D], K[X], K[M], K[E], K[O], K[IN_GROUPS], K[BY_GROUP], K[TURNS], K[FURTHER + 1]
  )
  redis.call('ZREM', K[NAMES], name)
  redis.call('ZREM', K[DUE_INDEX], name)
  return { u.now, 0, 'done' }
end
