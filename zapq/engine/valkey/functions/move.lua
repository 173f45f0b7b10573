-- Moving: what snapshots read and write
--
-- A snapshot is read while other functions change the queue. A small queue is read in one step. Of a larger one, the
-- ids are listed first (`export_ids`), and then its messages are read, some in each step (`export_some`): the body of
-- a message stays in h as long as the queue has the message, wherever its id is, so none that stays is overlooked.
--
-- A queue is loaded while it is paused, under a mark in h (field `i`), which is that of the file. A message that is
-- there already is not stored a second time. So each of these may be done twice, and a load that ended half-way is
-- done again from its beginning.

-- Returns the place in l of the first id that is not below `id`: the ids there rise.
local function place_in_line(K, id)
  local low, high = 0, redis.call('LLEN', K[L])
  while low < high do
    local middle = math.floor((low + high) / 2)
    if tonumber(redis.call('LINDEX', K[L], middle)) < id then low = middle + 1 else high = middle end
  end
  return low
end

-- Returns messages with these ids as a snapshot keeps them, as far as they are there and `room` has the bytes: those
-- in l as {id, value, ...}; of the others, {id, value, receives, releases, when it is ready or 0}, or without
-- `is_full` only the id. The ids rise. The third value says how many ids were looked at.
local function exported(u, ids, room, is_full)
  local K, plain, others, lined = u.K, {}, {}, {}
  if #ids == 0 then return plain, others, 0 end
  local first = place_in_line(K, tonumber(ids[1]))
  for _, id in ipairs(redis.call('LRANGE', K[L], first, first + #ids - 1)) do lined[id] = true end
  local sum, piece = 0, math.max(1, math.min(AT_ONCE, math.floor(room / math.max(u.q[LARGEST], 1))))
  for from = 1, #ids, piece do
    local last = math.min(from + piece - 1, #ids)
    for at, value in ipairs(redis.call('HMGET', K[H], unpack(ids, from, last))) do
      local place, id = from + at - 1, ids[from + at - 1]
      if value then
        sum = sum + #value
        if sum > room and place > 1 then return plain, others, place - 1 end
        if lined[id] then
          plain[#plain + 1], plain[#plain + 2] = id, value
        elseif not is_full then
          others[#others + 1] = id
        else
          local receives, releases = attempts(u, id)
          local priority, expires, _, origin, _, group = read_head(value)
          group = waits_in(origin, group)
          local size, due = #value - head_length(value), 0
          if not redis.call('ZSCORE', K[group == '' and B or IN_GROUPS], id) then
            due = tonumber(redis.call('ZSCORE', K[D], entry(priority, expires > 0, id, size, group ~= '')))
            -- What is in none of these is leased: the delivery counts.
            if not due then due, receives = 0, receives + 1 end
          end
          others[#others + 1] = { id, value, receives, releases, due }
        end
      end
    end
  end
  return plain, others, #ids
end

-- Returns how often messages of a queue have changed their places, or gone.
local function moves_of(q)
  local sum = 0
  for _, place in ipairs({ DEQUEUED, RECEIVED, ACKED, RELEASED, LEASES_EXPIRED, EXPIRED, DEAD_LETTERED, REDRIVEN,
    RETURNED, CLEARED }) do
    sum = sum + q[place]
  end
  return sum
end

-- Shows a queue without its messages, and with them if they are few. ARGV: 3 how many they may be, 4 how many bytes.
-- Answers when it was made, the next id, whether it is paused, its settings, whether dead letters come here, how many
-- messages it has, how often they have moved, and messages as `exported` has them; without them 0 twice.
function verbs.export(K, A)
  local u = begin(K, A)
  if not u.q or u.new then return missing(u) end
  local q, plain, others = u.q, 0, 0
  local kept = redis.call('HMGET', K[H], 'c', 'f')
  if q[COUNT] <= tonumber(A[3]) and q[BYTES] <= tonumber(A[4]) then
    local ids = {}
    for _, field in ipairs(q[COUNT] > 0 and redis.call('HKEYS', K[H]) or {}) do
      if string.find(field, '^%d+$') then ids[#ids + 1] = tonumber(field) end
    end
    table.sort(ids)
    for place, id in ipairs(ids) do ids[place] = string.format('%d', id) end
    plain, others = exported(u, ids, MAX_BATCH_BYTES * 4, true)
  end
  local is_fed = kept[2] and 1 or 0
  return answer(u, q[BORN], q[NEXT], q[PAUSED], kept[1] or '', is_fed, q[COUNT], moves_of(q), plain, others)
end

-- Lists ids below ARGV[4] of messages of a queue that was made at ARGV[3], in no order, from the cursor ARGV[5] on,
-- which is one of this master only. Some may come twice. Answers the master, the next cursor, ids.
function verbs.export_ids(K, A)
  local u = begin(K, A)
  if not u.q or u.q[BORN] ~= tonumber(A[3]) then return missing(u) end
  -- It reads the bodies as well.
  local number = math.max(1, math.min(TICKS, math.floor(MAX_BATCH_BYTES / 8 / math.max(u.q[LARGEST], 1))))
  local found, below, ids = redis.call('HSCAN', K[H], A[5], 'COUNT', number), tonumber(A[4]), {}
  for at = 1, #found[2], 2 do
    local field = found[2][at]
    if string.find(field, '^%d+$') and tonumber(field) < below then ids[#ids + 1] = tonumber(field) end
  end
  return answer(u, A[1], found[1], ids)
end

-- Shows messages of a queue that was made at ARGV[3]. ARGV: 4 how many bytes, 5 the plan {1 for messages in full, id,
-- ...}. Answers what `exported` returns.
function verbs.export_some(K, A)
  local u, plan = begin(K, A), cmsgpack.unpack(A[5])
  if not u.q or u.q[BORN] ~= tonumber(A[3]) then return missing(u) end
  local ids = {}
  for place = 2, #plan do ids[place - 1] = string.format('%d', plan[place]) end
  return answer(u, exported(u, ids, tonumber(A[4]), plan[1] == 1))
end

-- Begins to load a queue, which must be empty, or have the mark already, and makes it if need be. ARGV: 3 the plan
-- {mark, next id, how many queues the shard may have}, 4 the settings, packed. Answers 'held' if it has other
-- messages; else the master, and the settings there were before.
function verbs.import(K, A)
  local u, plan = begin(K, A), cmsgpack.unpack(A[3])
  local refusal = ensure(u, plan[3])
  if refusal then return { u.now, 0, refusal } end
  local q, kept = u.q, redis.call('HMGET', K[H], 'i', 'c')
  if kept[1] ~= plan[1] and (q[COUNT] > 0 or q[OUT] > 0) then return answer(u, 'held', q[COUNT] + q[OUT]) end
  groups.configure(u, A[4] == '' and {} or cmsgpack.unpack(A[4]))
  if A[4] == '' then redis.call('HDEL', K[H], 'c') else redis.call('HSET', K[H], 'c', A[4]) end
  redis.call('HSET', K[H], 'i', plan[1])
  q[NEXT], q[PAUSED] = math.max(q[NEXT], plan[2]), 1
  if q[COUNT] == 0 then u.first, q[NOTED_AT] = 0, 0 end -- what is loaded arrives now
  save(u)
  return answer(u, A[1], kept[2] or '')
end

-- Stores messages of a queue that is being loaded. ARGV: 3 the plan {mark, part...}, 4... bodies. A part is what so
-- many messages with ids that follow each other have in common: {first id, number, priority, milliseconds until they
-- are ready, milliseconds of the ttl or 0, receives, releases, type, origin, shape, group, key}. Answers 'changed' if the
-- mark is gone; else the master, and how many were stored.
function verbs.import_some(K, A)
  local u, plan = begin(K, A), cmsgpack.unpack(A[3])
  local q = u.q
  if not q or redis.call('HGET', K[H], 'i') ~= plan[1] then return answer(u, 'changed') end
  local retention = retention_of(u)
  local tail = redis.call('LINDEX', K[L], -1)
  local last, line, place, stored = tail and tonumber(tail) or 0, {}, 4, 0
  for at = 2, #plan do
    local first, number, priority, delay, ttl, receives, releases, kind, origin, shape, group, key = unpack(plan[at])
    group, key = group or '', key or '' -- which older front ends do not send
    local waits = waits_in(origin, group)
    if retention > 0 and (ttl == 0 or retention < ttl) then ttl = retention end
    local expires = ttl > 0 and u.now + ttl or 0
    local before = head(priority, expires, kind, origin, shape, group, key)
    local is_plain = priority == 0 and expires == 0 and origin == '' and receives == 0 and releases == 0 and waits == ''
      and key == ''
    for id = first, first + number - 1 do
      local body = A[place]
      local size = #body
      place = place + 1
      if redis.call('HSETNX', K[H], id, before .. body) == 1 then
        q[COUNT], q[BYTES], q[ARRIVED] = q[COUNT] + 1, q[BYTES] + size, q[ARRIVED] + 1
        q[LARGEST], stored = math.max(q[LARGEST], size), stored + 1
        if receives > 0 or releases > 0 then note_attempts(u, id, receives, releases, '', false) end
        if key ~= '' and failed_in(origin) == '' then keys.restore(u, key, id) end
        if delay > 0 then
          local due = u.now + delay
          if expires > 0 and expires < due then due = expires end
          redis.call('ZADD', K[D], due, entry(priority, expires > 0, id, size, waits ~= ''))
          if waits ~= '' then groups.hold(u, waits, id) end
          watch(u, due)
        elseif is_plain and id > last then
          line[#line + 1], last = id, id
        else
          make_ready(u, id, priority, size, expires, waits)
        end
      end
    end
  end
  in_pieces('RPUSH', K[L], line)
  save(u)
  return answer(u, A[1], stored)
end

-- Stores what Idempotency-Keys of a queue were used for that is being loaded. ARGV: 3 the plan {mark, {fingerprint,
-- id, milliseconds that are left}, ...}. Further keys: of Idempotency-Keys. Answers as `import_some`.
function verbs.import_keys(K, A)
  local u, plan, stored = begin(K, A), cmsgpack.unpack(A[3]), 0
  local q = u.q
  if not q or redis.call('HGET', K[H], 'i') ~= plan[1] then return answer(u, 'changed') end
  for at = 2, #plan do
    local key, fingerprint, id, left = K[FURTHER + at - 2], unpack(plan[at])
    local known = redis.call('GET', key)
    known = known and cmsgpack.unpack(known)
    if not known or known[1] ~= q[BORN] or known[4] <= u.now then
      redis.call('SET', key, cmsgpack.pack({ q[BORN], fingerprint, id, u.now + left }), 'PX', left)
      stored = stored + 1
    end
  end
  return answer(u, A[1], stored)
end

-- Ends loading a queue: its messages are given from now on, unless it is to be paused. ARGV: 3 the mark, 4 0 or 1.
-- Again is harmless.
function verbs.import_end(K, A)
  local u = begin(K, A)
  if not u.q then return missing(u) end
  if redis.call('HGET', K[H], 'i') == A[3] then
    redis.call('HDEL', K[H], 'i')
    u.q[PAUSED] = tonumber(A[4])
    tick(u)
    if u.q[PAUSED] == 0 then u.ready = number_to_give(u) end
    save(u)
  end
  return answer(u, A[1])
end
