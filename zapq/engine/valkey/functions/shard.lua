-- The shard: what is due, which queues there are, what they hold

-- Returns the names of queues in which something is due, at most ARGV[3], and lets others not see them for ARGV[4]
-- milliseconds: the front end that asked calls `due` for each. If it does not, they are seen again then.
-- KEYS: 1 due, 2 queues.
function verbs.sweep(K, A)
  local now = TEST and tonumber(A[2]) or time()
  local found = redis.call('ZRANGE', K[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, tonumber(A[3]))
  for _, name in ipairs(found) do redis.call('ZADD', K[1], 'XX', now + tonumber(A[4]), name) end
  return { now, 0, found }
end

-- Makes h anew. It grows with the bodies in it, and does not shrink when they leave: of a queue that is empty, half
-- of the memory would be for nothing.
local function shrink(u)
  local K, fields = u.K, { 'c', 'r', 'f', 'i' }
  local kept = redis.call('HMGET', K[H], unpack(fields))
  redis.call('DEL', K[H])
  for place, field in ipairs(fields) do
    if kept[place] then redis.call('HSET', K[H], field, kept[place]) end
  end
  u.q[LARGEST], u.q[KEYS_FIRST], u.q[KEYS_NEXT], u.q[NOTED_AT] = 0, 0, 0, 0
end

-- Does what is due in a queue, and puts right when the next is. Answers 1 if there is more to do now.
function verbs.due(K, A)
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
  if q[COUNT] == 0 and q[LARGEST] > 0 then shrink(u) end
  save(u)
  return answer(u, more and 1 or 0)
end

-- Returns names of queues after ARGV[3], at most ARGV[4], with their figures and settings; changes nothing, so what
-- became due a moment ago may not be in them. KEYS: 1 due, 2 queues, 3 past.
function verbs.figures(K, A)
  local now = TEST and tonumber(A[2]) or time()
  local after = A[3] == '' and '-' or '(' .. A[3]
  local found = redis.call('ZRANGE', K[2], after, '+', 'BYLEX', 'LIMIT', 0, tonumber(A[4]))
  local before, rows = string.match(K[2], '^({z%d+})') .. ':q:', {}
  for _, name in ipairs(found) do
    local key = before .. name .. ':'
    local kept = redis.call('HMGET', key .. 'h', 's', 'c')
    if kept[1] then
      local q = cmsgpack.unpack(kept[1])
      local row = figures_of(q, redis.call('ZCARD', key .. 'd'), redis.call('ZCARD', key .. 'x'))
      local K = { [H] = key .. 'h', [L] = key .. 'l', [B] = key .. 'b', [BY_GROUP] = key .. 'n', [TURNS] = key .. 't' }
      local settings = kept[2] and q[GROUPED] and q[GROUPED] > 0 and cmsgpack.unpack(kept[2]) or {}
      row[#row + 1] = arrivals.oldest({ K = K, q = q, settings = settings }, row)
      rows[#rows + 1] = { name, row, kept[2] or '' }
    end
  end
  return { now, 0, rows, found[#found] or '' }
end

-- As `figures`, but answers the sum of all its queues and how many they are; with the first of them, that of
-- deleted ones as well. Last, when the oldest message came in any of them.
function verbs.sums(K, A)
  local all = verbs.figures(K, A)
  local row, past, oldest = nil, A[3] == '' and redis.call('GET', K[3]), {}
  if past then row = cmsgpack.unpack(past) end
  for _, each in ipairs(all[3]) do
    oldest[#oldest + 1] = table.remove(each[2]) -- a time
    if row then
      for place, number in ipairs(each[2]) do row[place] = row[place] + number end
    else
      row = each[2]
    end
  end
  return { all[1], 0, row or {}, #all[3], all[4], earliest(unpack(oldest)) }
end
