-- Producers: put

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

-- Stores messages. ARGV: 3 the plan, 4... the bodies, headers before them. Further keys: of Idempotency-Keys.
--
-- The plan is {max_messages, max_bytes, max_queues, request...}. A request is {form, parts, key, fingerprint}; key
-- is the place among the further keys, or 0. A part is {number, priority, delay, ttl, type, shape, group, origin}: what
-- so many messages have in common; the last three may be left out. Form 0: each message is stored or refused by
-- itself, and there is one part. Form 1: all or none.
--
-- The answer has for each request the id of the first message if all were stored, which all have ids that follow
-- each other. Else it is a refusal, or in form 0 a list of {'each', id or refusal, ...}.
function verbs.put(K, A)
  local u, plan = begin(K, A), cmsgpack.unpack(A[3])
  local refusal = ensure(u, plan[3])
  if refusal then return { u.now, 0, refusal } end
  local q, settings = u.q, u.settings
  if q[COUNT] == 0 then q[LARGEST] = 0 end
  local default_ttl = settings.ttl and math.max(math.floor(settings.ttl * 1000 + 0.5), 1) or 0
  local ticked, retention = false, retention_of(u)
  -- What is written at the end, by key
  local fields, line, ranked, delayed, mortal, claims = { '', '', '' }, {}, {}, {}, {}, {}
  local in_order, ready_of, out_of = {}, {}, {} -- groups, and ids by group
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
    if retention > 0 and (ttl == 0 or retention < ttl) then ttl = retention end
    local expires = ttl > 0 and u.now + ttl or 0
    local group = part[7] or ''
    local before = head(priority, expires, kind, part[8] or '', part[6] or '', group, '')
    local is_plain = priority == 0 and expires == 0 and delay == 0 and group == ''
    if group ~= '' and not ready_of[group] then
      in_order[#in_order + 1], ready_of[group], out_of[group] = group, {}, {}
    end
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
        local member = entry(priority, expires > 0, id, length, group ~= '')
        if delay > 0 then
          local due = u.now + delay
          if expires > 0 and expires < due then due = expires end
          delayed[#delayed + 1], delayed[#delayed + 2] = due, member
          watch(u, due)
          if group ~= '' then out_of[group][#out_of[group] + 1] = id end
        else
          if group ~= '' then
            ready_of[group][#ready_of[group] + 1] = id
          else
            ranked[#ranked + 1], ranked[#ranked + 2] = id - priority * STEP, id
          end
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
    if delay == 0 and group == '' then u.ready = u.ready + number end
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
  groups.append(u, in_order, ready_of, out_of)
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
