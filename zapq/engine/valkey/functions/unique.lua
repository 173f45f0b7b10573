-- Keys: unique while held, as core/unique.py has it
--
-- h says in `u KEY` which message has a key. Messages leave in many ways, and none of those comes here: what a field
-- says counts while that message is there and has the key. Before each new field, two old ones are looked at, in the
-- order of `k NUMBER`; so those of messages that are gone are never many more than the others.

local keys = {}

local HOW_STORED, HOW_KEPT, HOW_REPLACED = 0, 1, 2

-- Returns the message that has a key: its id and value; or nil.
function keys.find(u, key)
  local id = redis.call('HGET', u.K[H], 'u' .. key)
  local value = id and redis.call('HGET', u.K[H], id)
  if not value then return nil end
  local _, _, _, origin, _, _, unique = read_head(value)
  if unique ~= key or failed_in(origin) ~= '' then return nil end
  return tonumber(id), value
end

-- Lets the message with this id have a key.
function keys.claim(u, key, id)
  local q, h = u.q, u.K[H]
  if redis.call('HSET', h, 'u' .. key, id) == 0 then return end
  local function enter(entered)
    redis.call('HSET', h, string.format('k%d', q[KEYS_NEXT]), entered)
    q[KEYS_NEXT] = q[KEYS_NEXT] + 1
  end
  for _ = 1, math.min(2, q[KEYS_NEXT] - q[KEYS_FIRST]) do
    local at = string.format('k%d', q[KEYS_FIRST])
    local old = redis.call('HGET', h, at)
    redis.call('HDEL', h, at)
    q[KEYS_FIRST] = q[KEYS_FIRST] + 1
    if old and keys.find(u, old) then enter(old) elseif old then redis.call('HDEL', h, 'u' .. old) end
  end
  enter(key)
end

-- Returns a value without its key.
local function without_key(value)
  local priority, expires, kind, origin, shape, group = read_head(value)
  return head(priority, expires, kind, origin, shape, group, '') .. string.sub(value, head_length(value) + 1)
end

-- Lets a message that comes from elsewhere have its key. Returns its value: without the key, if another one has that.
function keys.claim_if_free(u, id, value)
  local _, _, _, origin, _, _, key = read_head(value)
  if key == '' or failed_in(origin) ~= '' then return value end
  local holder = keys.find(u, key)
  if holder and holder ~= id then return without_key(value) end
  keys.claim(u, key, id)
  return value
end

-- Lets a message that was kept in a file have its key, unless a newer one has it.
function keys.restore(u, key, id)
  local holder = keys.find(u, key)
  if not holder or holder < id then keys.claim(u, key, id) end
end

-- Returns 1 if a message has a key and no message is known by that, else 0; mends it if `is_mending`.
function keys.repair(u, id, value, is_mending)
  local _, _, _, origin, _, _, key = read_head(value)
  if key == '' or failed_in(origin) ~= '' or keys.find(u, key) then return 0 end
  if is_mending then keys.claim(u, key, id) end
  return 1
end

-- Returns where the message that has a key is: 'ready', 'leased', or 'delayed' and until when.
local function whereabouts(u, id, value)
  local priority, expires, _, _, _, group = read_head(value)
  if redis.call('ZSCORE', u.K[group == '' and B or IN_GROUPS], id) then return 'ready' end
  local size = #value - head_length(value)
  local due = redis.call('ZSCORE', u.K[D], entry(priority, expires > 0, id, size, group ~= ''))
  if due then return 'delayed', tonumber(due) end
  return 'leased'
end

-- Returns when a message is outlived that comes now with this ttl, or 0.
local function expiry_of(u, ttl)
  local own, retention = u.settings.ttl, retention_of(u)
  if ttl == 0 and own then ttl = math.max(math.floor(own * 1000 + 0.5), 1) end
  if retention > 0 and (ttl == 0 or retention < ttl) then ttl = retention end
  return ttl > 0 and u.now + ttl or 0
end

-- Stores a message at the end, and returns its id. A part is as in `put`, with the key and whether it replaces.
local function add(u, part, body)
  local q, K = u.q, u.K
  local priority, delay, group, key = part[2], part[3], part[7] or '', part[9] or ''
  local id, size, expires = q[NEXT], #body, expiry_of(u, part[4])
  local before = head(priority, expires, part[5], part[8] or '', part[6] or '', group, key)
  redis.call('HSET', K[H], id, before .. body)
  q[NEXT], q[COUNT], q[BYTES], q[ENQUEUED] = id + 1, q[COUNT] + 1, q[BYTES] + size, q[ENQUEUED] + 1
  q[LARGEST] = math.max(q[LARGEST], size)
  if delay > 0 then
    local due = u.now + delay
    if expires > 0 and expires < due then due = expires end
    redis.call('ZADD', K[D], due, entry(priority, expires > 0, id, size, group ~= ''))
    watch(u, due)
    if group ~= '' then groups.hold(u, group, id) end
  elseif priority == 0 and expires == 0 and group == '' and key == '' then
    redis.call('RPUSH', K[L], id)
    u.ready = u.ready + 1
  else
    make_ready(u, id, priority, size, expires, group)
  end
  return id
end

-- Gives a message that is ready, or delayed until `due`, another body. Its place stays.
local function replace(u, id, value, due, part, body)
  local q, K = u.q, u.K
  local priority, before, _, origin, _, group = read_head(value)
  local size, expires, is_grouped = #value - head_length(value), expiry_of(u, part[4]), group ~= ''
  local _, _, lapsed, is_noted = attempts(u, id)
  close_lapse(u, lapsed, END_REPLACED)
  if is_noted then
    redis.call('HDEL', K[H], 'c' .. id)
    q[NOTED] = q[NOTED] - 1
  end
  redis.call('HSET', K[H], id, head(priority, expires, part[5], origin, part[6] or '', group, part[9]) .. body)
  q[BYTES], q[LARGEST] = q[BYTES] + #body - size, math.max(q[LARGEST], #body)
  local old, new = entry(priority, before > 0, id, size, is_grouped), entry(priority, expires > 0, id, #body, is_grouped)
  if due then
    if part[3] > 0 then due = u.now + part[3] end
    if expires > 0 and expires < due then due = expires end
    redis.call('ZREM', K[D], old)
    redis.call('ZADD', K[D], due, new)
    watch(u, due)
  else
    if before > 0 then redis.call('ZREM', K[M], old) end
    if expires > 0 then
      redis.call('ZADD', K[M], expires, new)
      watch(u, expires)
    end
  end
end

-- Stores a message, unless it has a key and one with that is held: keeps that, or replaces it. Returns the id, and
-- what was done.
local function place(u, part, body)
  local key = part[9] or ''
  if key == '' then return add(u, part, body), HOW_STORED end
  local id, value = keys.find(u, key)
  if id and not part[10] then return id, HOW_KEPT end
  if id then
    local state, due = whereabouts(u, id, value)
    if state ~= 'leased' then
      replace(u, id, value, due, part, body)
      return id, HOW_REPLACED
    end
    -- Its consumer works on the old body.
    redis.call('HSET', u.K[H], id, without_key(value))
  end
  id = add(u, part, body)
  keys.claim(u, key, id)
  return id, HOW_STORED
end

-- Returns how many more messages and bytes a queue has, once these are stored, each {part, body}.
local function needed(u, offered)
  local count, size, sizes = 0, 0, {}
  for _, each in ipairs(offered) do
    local part, more = each[1], #each[2]
    local key, replaces = part[9] or '', part[10]
    if key ~= '' and sizes[key] then
      -- Of one before it in this batch.
      if replaces then size, sizes[key] = size + more - sizes[key], more end
    else
      local id, value
      if key ~= '' then id, value = keys.find(u, key) end
      if not id or replaces then
        if key ~= '' then sizes[key] = more end
        if id and whereabouts(u, id, value) ~= 'leased' then
          more = more - (#value - head_length(value))
        else
          count = count + 1
        end
        size = size + more
      end
    end
  end
  return count, size
end

-- Stores messages of which some have keys. ARGV as for `put`, with requests of form 1 only; a part has two places
-- more: the key, and whether the message that is held with it is replaced. The answer has for each request a refusal,
-- or {'placed', id, what was done, ...} for each of its messages: 0 it was stored, 1 another was kept, 2 replaced.
function verbs.put_unique(K, A)
  local u, plan = begin(K, A), cmsgpack.unpack(A[3])
  local refusal = ensure(u, plan[3])
  if refusal then return { u.now, 0, refusal } end
  local q, results, at_body, has_changed = u.q, { u.now, 0 }, 4, false
  tick(u)
  if q[COUNT] == 0 then q[LARGEST] = 0 end
  for at = 4, #plan do
    local request, offered, result = plan[at], {}, nil
    for _, part in ipairs(request[2]) do
      for _ = 1, part[1] do
        offered[#offered + 1] = { part, A[at_body] }
        at_body = at_body + 1
      end
    end
    local claim = request[3] > 0 and K[FURTHER - 1 + request[3]]
    local known = claim and redis.call('GET', claim)
    known = known and cmsgpack.unpack(known)
    if known and known[1] == q[BORN] and known[4] > u.now then
      result = known[2] == request[4] and { 'replayed', known[3] } or { 'reused' }
    end
    if not result then
      local count, size = needed(u, offered)
      local limit, cap, current, most, over = excess(u, plan, count, size)
      if limit then
        result = refuse(u, limit, cap, current, most, over)
      else
        result, has_changed = { 'placed' }, true
        for _, each in ipairs(offered) do
          result[#result + 1], result[#result + 2] = place(u, each[1], each[2])
        end
        if claim then
          local first = cmsgpack.pack({ q[BORN], request[4], result[2], u.now + IDEMPOTENCY_WINDOW })
          redis.call('SET', claim, first, 'PX', IDEMPOTENCY_WINDOW)
        end
      end
    end
    results[#results + 1] = result
  end
  -- A queue that nothing was stored in is not made.
  if not has_changed and u.new and not u.is_default then return results end
  save(u)
  results[2] = q[OUT]
  return results
end
