-- Dead letters: from one queue to another, which may be in another shard

--
-- Two slots cannot be changed in one step. So a message that leaves a queue for another enters the first one's
-- outbox in the step in which it leaves. Some front end then reads the outbox (`outbox`), has the other queues take
-- over what is theirs (`adopt`), and strikes it out (`done`). Each of these may be done twice, or by two front ends
-- at once: entries are numbered, they are adopted in their order, and a queue remembers the last number it has from
-- each outbox.

-- Shows the first entries of the outbox: {number, target, priority, value}, as many as a batch has bytes.
-- ARGV: 3 how many at most. The first answer is when the queue was made, as its name in `adopt`.
function verbs.outbox(K, A)
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
function verbs.adopt(K, A)
  local u, plan = begin(K, A), cmsgpack.unpack(A[3])
  ensure(u, 0)
  local q, from = u.q, plan[1]
  local last = tonumber(redis.call('HGET', K[FURTHER], from) or 0)
  local fields, taken, retention = { '', '', '' }, 0, retention_of(u)
  for place = 4, #A do
    local number, priority = plan[2 * (place - 3)], plan[2 * (place - 3) + 1]
    if number > last then
      local value, id = A[place], q[NEXT]
      local size = #value - head_length(value)
      value = keys.claim_if_free(u, id, value)
      local _, _, kind, origin, shape, group, key = read_head(value)
      local expires, waits = retention > 0 and u.now + retention or 0, waits_in(origin, group)
      if expires > 0 then
        value = head(priority, expires, kind, origin, shape, group, key) .. string.sub(value, head_length(value) + 1)
      end
      q[NEXT], q[COUNT], q[BYTES], q[ARRIVED] = id + 1, q[COUNT] + 1, q[BYTES] + size, q[ARRIVED] + 1
      q[LARGEST] = math.max(q[LARGEST], size)
      if key == '' then
        fields[#fields + 1], fields[#fields + 2] = id, value
      else
        redis.call('HSET', K[H], id, value) -- another one with its key may come behind it
      end
      if failed_in(origin) == '' and priority == 0 and expires == 0 and waits == '' and key == '' then
        redis.call('RPUSH', K[L], id)
        u.ready = u.ready + 1
      else
        make_ready(u, id, priority, size, expires, waits)
      end
      last, taken = number, taken + 1
    end
  end
  redis.call('HSET', K[FURTHER], from, string.format('%d', last))
  save(u, fields)
  return answer(u, taken)
end

-- Strikes out what was adopted. ARGV: 3 when the queue was made, 4 the number of the last entry of these.
function verbs.done(K, A)
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
function verbs.letters(K, A)
  local u = look(K, A)
  if not u.q then return missing(u) end
  local origins, seen = {}, {}
  for first = 0, REDRIVE_LOOKS - 1, 100 do
    local ids = redis.call('ZRANGE', K[B], first, first + 99)
    if #ids == 0 then break end
    for _, value in ipairs(redis.call('HMGET', K[H], unpack(ids))) do
      if value then
        local _, _, _, origin = read_head(value)
        local failed = failed_in(origin)
        if failed ~= '' and not seen[failed] then
          seen[failed] = true
          origins[#origins + 1] = failed
        end
      end
    end
  end
  return answer(u, origins)
end

-- Shows how much room there is under a queue's own caps: messages, bytes; -1 if there is no cap.
function verbs.room(K, A)
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
-- messages, bytes, ...}, id}: the room in each queue that letters can go to, and the one letter that is meant, or 0. They begin anew there. One that does not fit
-- keeps those behind it of its group from overtaking it. Answers how many, and how many ready messages are left.
function verbs.redrive(K, A)
  local u, plan = begin(K, A), cmsgpack.unpack(A[3])
  if not u.q then return missing(u) end
  tick(u)
  local q, left, rooms = u.q, plan[1], {}
  for at = 1, #plan[2], 3 do rooms[plan[2][at]] = { plan[2][at + 1], plan[2][at + 2] } end
  local moved, looks, first, passed_over = 0, 0, 0, {}
  while left > moved and looks < REDRIVE_LOOKS and next(rooms) do
    -- What was moved has left the line, so those that stay are counted.
    local ids
    -- Earlier front ends know of no single letter.
    if (plan[3] or 0) == 0 then
      ids = redis.call('ZRANGE', K[B], first, first + 99)
    else
      local one = string.format('%d', plan[3])
      ids = first == 0 and redis.call('ZSCORE', K[B], one) and { one } or {}
    end
    if #ids == 0 then break end
    for at, value in ipairs(redis.call('HMGET', K[H], unpack(ids))) do
      local id, priority, expires, kind, origin, shape, group, key = ids[at], 0, 0, '', '', '', '', ''
      if value then priority, expires, kind, origin, shape, group, key = read_head(value) end
      local failed = failed_in(origin)
      local there, goes = rooms[failed], false
      if there and failed ~= '' then
        looks = looks + 1
        local body = string.sub(value, head_length(value) + 1)
        local messages, bytes = there[1], there[2]
        local others = group ~= '' and failed .. ' ' .. group
        if others and passed_over[others] then
          goes = false
        elseif messages ~= 0 and (bytes < 0 or #body <= bytes) then
          goes = true
          if messages > 0 then there[1] = messages - 1 end
          if bytes >= 0 then there[2] = bytes - #body end
          local receives, _, lapsed, is_noted = attempts(u, id)
          local from = origin_of(u, id, origin, receives, '')
          send(u, failed, priority, head(priority, 0, kind, from, shape, group, key) .. body)
          close_lapse(u, lapsed, END_GIVEN)
          make_unready(u, id, priority, #body, expires > 0, '')
          drop(u, id, #body, is_noted)
          moved = moved + 1
        elseif messages == 0 or bytes < 1 then
          rooms[failed] = nil
        elseif others then
          passed_over[others] = true
        end
      end
      if not goes then first = first + 1 end
      if moved == left or looks == REDRIVE_LOOKS then break end
    end
  end
  q[REDRIVEN] = q[REDRIVEN] + moved
  save(u)
  return answer(u, moved, number_of_ready(u))
end
