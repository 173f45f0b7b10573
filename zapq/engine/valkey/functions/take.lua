-- Consumers: take, give back, settle

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
  if u.limited then return 'limited', let_through_at(u) end
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
    local has_limits = u.settings.rate or u.settings.max_leased
    if q[PAUSED] == 1 then
      looked = looked + number
      local none = {}
      for consumer = 1, number do none[consumer] = 0 end
      numbers[at - 4] = limit == 1 and 0 or none
    elseif limit == 1 then
      -- What is given to many consumers is bounded together.
      local may = has_limits and allowed(u, number, is_lease, 0) or number
      if may > 0 then room = room - pop(u, may, got == 0 and MAX_BATCH_BYTES or room, taken) end
      local more = #taken[1] - from
      spend(u, more)
      numbers[at - 4] = more
      got = got + more
      looked = looked + more
      if more < number then
        -- Either no more may be given, or there are no more, or they are too large.
        if more == may then
          looked = looked + number - more
          hold_back(u, is_lease, more)
        elseif q[COUNT] > 0 and (redis.call('LLEN', K[L]) > 0 or q[LINED] > 0) then
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
        local may = has_limits and allowed(u, limit, is_lease, before - from) or limit
        if may > 0 then
          room = room - pop(u, may, MAX_BATCH_BYTES, taken)
        else
          hold_back(u, is_lease, before - from)
        end
        local more = #taken[1] - before
        spend(u, more)
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
    -- What others want may not be limited, and they would be told another reason.
    if is_cut or u.limited then break end
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
-- the ttl or 0, type, origin, shape}, ...}}; 4... the bodies of those that were given for good. Never refused: all of it was
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
      spend(u, -1)
      make_ready(u, id, priority, size, is_mortal and expiry(u, id) or 0)
    end
  end
  for place, about in ipairs(plan[3]) do
    local id, priority, receives, releases, left, kind, origin, shape = unpack(about)
    local body = A[3 + place]
    local expires = left > 0 and u.now + left or 0
    -- What is there already was put back before, or a failover has lost that it was taken.
    if redis.call('HSETNX', K[H], id, head(priority, expires, kind, origin, shape or '') .. body) == 1 then
      local size = #body
      q[COUNT], q[BYTES], q[RETURNED] = q[COUNT] + 1, q[BYTES] + size, q[RETURNED] + 1
      q[LARGEST] = math.max(q[LARGEST], size)
      spend(u, -1)
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
  let_through(u, count)
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
      let_through(u, 1)
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
  let_through(u, 1)
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
