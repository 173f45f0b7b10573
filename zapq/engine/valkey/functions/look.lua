-- Looking: peek, find, describe

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
function verbs.peek(K, A)
  local u, plan = look(K, A), cmsgpack.unpack(A[3])
  if not u.q then return missing(u) end
  local state, limit, ids, times = plan[1], plan[2], {}, {}
  if state == 0 then
    ids = all_ready(u, limit)
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

-- Shows one message. ARGV: 3 its id.
function verbs.find(K, A)
  local u = look(K, A)
  if not u.q then return missing(u) end
  local id = tonumber(A[3])
  local value = redis.call('HGET', K[H], id)
  if not value then return answer(u, 0) end
  local priority, expires, _, origin, _, group, key = read_head(value)
  group = waits_in(origin, group)
  local of = badge(priority, expires > 0, id)
  local size = #value - head_length(value)
  local due = redis.call('ZSCORE', K[D], entry(priority, expires > 0, id, size, group ~= ''))
  if due then return answer(u, view(u, id, value, 1, tonumber(due))) end
  local first = redis.call('LINDEX', K[L], 0)
  -- The ids in l rise, and a plain one that is not yet given out is there.
  local is_in_line = first and id >= tonumber(first) and priority == 0 and expires == 0 and group == '' and key == ''
  if not is_in_line and not redis.call('ZSCORE', K[group == '' and B or IN_GROUPS], id) then
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

-- Returns when the oldest message arrived that a consumer would be given, from the figures of its queue; 0 if there is
-- none, -1 if that is not known.
function arrivals.oldest(u, row)
  if row[1] - row[3] - row[4] <= 0 then return 0 end
  local q, oldest = u.q, nil
  local function see(id)
    id = tonumber(id)
    if id and (not oldest or id < oldest) then oldest = id end
  end
  see(redis.call('LINDEX', u.K[L], 0) or nil)
  -- The first of each priority
  local from = q[LINED] > 0 and '-inf'
  while from do
    local first = redis.call('ZRANGE', u.K[B], from, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
    see(first[1])
    local priority = first[2] and -math.floor(first[2] / STEP) or 0
    from = priority > 0 and string.format('%.0f', (1 - priority) * STEP)
  end
  if q[GROUPED] and q[GROUPED] > 0 then
    local most = u.settings.fair and arrivals.groups or 1
    for _, group in ipairs(redis.call('ZRANGE', u.K[TURNS], '-inf', '(inf', 'BYSCORE', 'LIMIT', 0, most)) do
      see(groups.first(u, group, 'r'))
    end
  end
  return oldest and arrivals.time_of(u, oldest) or 0
end

-- Shows settings and figures.
function verbs.describe(K, A)
  local u = look(K, A)
  if not u.q then return missing(u) end
  local row = figures_of(u.q, redis.call('ZCARD', K[D]), redis.call('ZCARD', K[X]))
  row[#row + 1] = arrivals.oldest(u, row)
  return answer(u, row, redis.call('HGET', K[H], 'c') or '')
end
