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

-- Returns the ids of the first ready messages, at most `number`, by rank, whether or not consumers can be given them.
local function all_ready(u, number)
  local ids, scores = first_ready(u, number)
  if u.q[GROUPED] == 0 then return ids end
  local others, merged, at, other = redis.call('ZRANGE', u.K[IN_GROUPS], 0, number - 1), {}, 1, 1
  while #merged < number and (ids[at] or others[other]) do
    if others[other] and (not ids[at] or tonumber(others[other]) < (scores[at] or tonumber(ids[at]))) then
      merged[#merged + 1], other = others[other], other + 1
    else
      merged[#merged + 1], at = ids[at], at + 1
    end
  end
  return merged
end

-- Looks at a message that was just taken out of a place other than l. Returns what is to be known of it, as `pop` has
-- it; or nil if it is not to be given, after it has gone where it belongs. Its group is '' if it waits in none.
local function taken_note(u, id, value, size, group)
  local q, priority, expires = u.q, read_head(value)
  local receives, releases, lapsed, is_noted = attempts(u, id)
  if expires > 0 then redis.call('ZREM', u.K[M], entry(priority, true, id, size, group ~= '')) end
  if expires > 0 and expires <= u.now then
    close_lapse(u, lapsed, END_OUTLIVED)
    drop(u, id, size, is_noted)
    q[EXPIRED] = q[EXPIRED] + 1
    return nil
  end
  if u.settings.max_receives and receives >= u.settings.max_receives then
    -- It came back before the setting was lowered.
    close_lapse(u, lapsed, END_DEAD_LETTERED)
    give_up(u, id, priority, size, receives, is_noted)
    return nil
  end
  if lapsed ~= '' then
    close_lapse(u, lapsed, END_GIVEN)
    note_attempts(u, id, receives, releases, '', true)
  end
  return { priority, expires > 0, receives, releases, is_noted, group ~= '' }
end

-- How messages are taken
local FOR_GOOD, FOR_EACH, TOGETHER = 0, 1, 2 -- as leases for consumers that want one each, or for one that wants many

-- Takes ready messages one by one, as `pop` does, for some of the queue's are in groups.
local function pop_each(u, number, room, taken, how)
  local q, K = u.q, u.K
  local ids, values, sizes, notes = taken[1], taken[2], taken[3], taken[4]
  local sum, dropped, got, held = 0, 0, 0, {}
  local lined = redis.call('LINDEX', K[L], 0)
  local ranked = redis.call('ZRANGE', K[B], 0, 0, 'WITHSCORES')
  while got < number and dropped <= TICKS do
    local group, place = groups.next(u)
    -- Of those that are in no group
    local is_lined = lined and not (ranked[2] and tonumber(ranked[2]) < tonumber(lined))
    local id = is_lined and lined or ranked[1]
    local takes_turn = false
    if group and id then
      if u.settings.fair then
        takes_turn = place > q[TURN_OF_OTHERS]
        if takes_turn then group = nil end
      elseif place > (is_lined and tonumber(lined) or tonumber(ranked[2])) then
        group = nil
      end
    end
    if group then id = string.format('%d', u.settings.fair and groups.first(u, group, 'r') or place) end
    if not id then break end
    local value = redis.call('HGET', K[H], id)
    local size = value and #value - head_length(value) or 0
    if sum + size > room and (got > 0 or room < MAX_BATCH_BYTES) then break end
    if takes_turn then
      q[TURN] = q[TURN] + 1
      q[TURN_OF_OTHERS] = q[TURN]
    end
    local note = nil
    if value and (group or not is_lined) then note = taken_note(u, id, value, size, group or '') end
    if group then
      -- One that is not to be given holds up nothing.
      groups.pop(u, group, id, note and how == FOR_EACH)
    elseif is_lined then
      redis.call('LPOP', K[L])
      lined = redis.call('LINDEX', K[L], 0)
    else
      redis.call('ZREM', K[B], id)
      q[LINED] = q[LINED] - 1
      ranked = redis.call('ZRANGE', K[B], 0, 0, 'WITHSCORES')
    end
    if value and (note or (is_lined and not group)) then
      local at = #ids + 1
      ids[at], values[at], sizes[at], notes[at] = id, value, size, note
      sum, got = sum + size, got + 1
      if group and how == TOGETHER then
        local others = held[group] or {}
        held[group], others[#others + 1] = others, id
      end
    else
      u.changed, dropped = true, dropped + 1
    end
  end
  groups.hold_taken(u, held)
  u.ready = u.ready - dropped
  return sum
end

-- Takes the first ready messages off their lines, at most `number` and of `room` bytes together; one in any case if
-- `room` is that of a whole batch. Appends to `taken`, and returns how many bytes they have.
--
-- What is taken is {ids, values, sizes, notes}; a note, for what is not plain: {priority, has a ttl, receives,
-- releases, is noted, is in a group}. `how` it is taken matters to groups: leases hold up those behind them.
local function pop(u, number, room, taken, how)
  local q, K = u.q, u.K
  if q[GROUPED] > 0 then return pop_each(u, number, room, taken, how) end
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
        note = taken_note(u, id, value, size, '')
        is_unfit = not note
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

-- Returns when the first message is ready that is leased or delayed and is held up by no other of its group, among the
-- first of them; or nil.
local function first_of_groups(u)
  local leased = redis.call('ZRANGE', u.K[X], 0, BLOCKERS_LOOKED_AT - 1, 'WITHSCORES')
  local delayed = redis.call('ZRANGE', u.K[D], 0, BLOCKERS_LOOKED_AT - 1, 'WITHSCORES')
  local lease, delay = 1, 1
  for _ = 1, BLOCKERS_LOOKED_AT do
    local member, at = leased[lease], tonumber(leased[lease + 1])
    if not member or (delayed[delay] and tonumber(delayed[delay + 1]) < at) then
      member, at, delay = delayed[delay], tonumber(delayed[delay + 1]), delay + 2
    else
      lease = lease + 2
    end
    if not member then return nil end
    local _, _, id, _, is_grouped = parse(member)
    if not is_grouped or groups.first(u, group_of(kept(u, id)), 'o') == id then return at end
  end
end

-- Returns why a consumer gets nothing, and when that may change: 0 if it does not by itself.
local function reason(u)
  if u.q[PAUSED] == 1 then return 'paused', 0 end
  if u.limited then return 'limited', let_through_at(u) end
  local lease, delay = first_time(u.K[X]), first_time(u.K[D])
  if lease == 0 and delay == 0 then return 'empty', 0 end
  local why = (delay == 0 or (lease > 0 and lease < delay)) and 'leased' or 'delayed'
  local at = earliest(lease, delay)
  if u.q[GROUPED] > 0 then
    if groups.is_blocked(u) then why = 'blocked' end
    at = first_of_groups(u) or at
  end
  return why, at
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
-- many milliseconds, as the queue is set (-1), or for no time at all (0: one consumer is served, the others are to ask
-- again). If the last of all get nothing, `consumers` (of which those that got something here are taken off) wait at
-- this front end.
--
-- The answer: 3 why consumers get nothing, 4 when that may change, 5 for each request how many messages there are
-- for each of its consumers (if its limit is 1, for how many of them there is one), 6 ids, 7 values, 8 for those that
-- are not plain: place, priority, receives, releases; 9 for each request when its leases end, in milliseconds, 10 for
-- how long they last, 11 what the receipts have in common, 12 how many consumers were looked at: the others are to
-- ask again.
function verbs.take(K, A)
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
    -- Such a message is there again for the next consumer, whose receipt needs another nonce: that of another call.
    local is_over_at_once = is_lease and visibility == 0
    local from, is_cut = #taken[1], false
    local has_limits = u.settings.rate or u.settings.max_leased
    if q[PAUSED] == 1 then
      looked = looked + number
      local none = {}
      for consumer = 1, number do none[consumer] = 0 end
      numbers[at - 4] = limit == 1 and 0 or none
    elseif limit == 1 then
      -- What is given to many consumers is bounded together.
      local most = is_over_at_once and 1 or number
      local may = has_limits and allowed(u, most, is_lease, 0) or most
      local how = is_lease and FOR_EACH or FOR_GOOD
      if may > 0 then room = room - pop(u, may, got == 0 and MAX_BATCH_BYTES or room, taken, how) end
      local more = #taken[1] - from
      spend(u, more)
      numbers[at - 4] = more
      got = got + more
      looked = looked + more
      if more < number then
        -- Either no more may be given, or there are no more, or they are too large.
        if is_over_at_once and more > 0 then
          is_cut = true
        elseif more == may then
          looked = looked + number - more
          hold_back(u, is_lease, more)
        elseif q[COUNT] > 0 and has_some(u) then
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
          room = room - pop(u, may, MAX_BATCH_BYTES, taken, is_lease and TOGETHER or FOR_GOOD)
        else
          hold_back(u, is_lease, before - from)
        end
        local more = #taken[1] - before
        spend(u, more)
        looked = looked + 1
        each[consumer] = more
        if more > 0 then got = got + 1 end
        if is_over_at_once and more > 0 then break end
      end
    end
    -- They leave the queue, or are leased.
    local ids, values, sizes, notes = taken[1], taken[2], taken[3], taken[4]
    local last = #ids
    if last > from then
      if is_lease then
        local suffix = string.format('%s%08x%08x-', nonce, q[TAG], visibility)
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
          local first = note and badge(note[1], note[2], ids[place]) .. (note[6] and 'g' or '-')
            or string.format('90%012x-', ids[place])
          members[next_member], members[next_member + 1] = score, first .. tail
          -- So that the lease is found by the message, once there are receipts that are over.
          if note and note[5] then note_attempts(u, ids[place], note[3], note[4], first .. tail, true) end
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
    if is_cut or u.limited or (is_over_at_once and last > from) then break end
  end
  u.ready = u.ready - #taken[1]
  -- What was given for good holds up nothing: another consumer may have the next message of its group.
  if q[GROUPED] > 0 and #taken[1] > 0 and not u.limited and groups.next(u) then u.ready = math.max(u.ready, 1) end
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
-- the ttl or 0, type, origin, shape, group, key}, ...}}; 4... the bodies of those that were given for good. Never refused:
-- all of it was accepted once.
function verbs.give_back(K, A)
  local u, plan = begin(K, A), cmsgpack.unpack(A[3])
  local q = u.q
  if not q then return missing(u) end
  q[UNCERTAIN] = q[UNCERTAIN] + plan[1]
  for _, receipt in ipairs(plan[2]) do
    local priority, is_mortal, id, size, is_grouped = parse(receipt)
    if redis.call('ZREM', K[X], receipt) == 1 then
      note_end(u, receipt, END_UNKNOWN)
      q[RECEIVED], q[RETURNED] = q[RECEIVED] - 1, q[RETURNED] + 1
      spend(u, -1)
      local expires, group = 0, ''
      if is_mortal or is_grouped then expires, group = expiry_and_group(u, id) end
      local receives, releases, _, is_noted = attempts(u, id)
      if is_noted then note_attempts(u, id, receives, releases, '', true) end
      make_ready(u, id, priority, size, expires, group)
    end
  end
  for place, about in ipairs(plan[3]) do
    local id, priority, receives, releases, left, kind, origin, shape, group, key = unpack(about)
    shape, group, key = shape or '', group or '', key or '' -- which older front ends do not send
    local body = A[3 + place]
    local expires = left > 0 and u.now + left or 0
    -- What is there already was put back before, or a failover has lost that it was taken.
    local value = head(priority, expires, kind, origin, shape, group, key) .. body
    if redis.call('HSETNX', K[H], id, value) == 1 then
      local claimed = keys.claim_if_free(u, id, value)
      if claimed ~= value then redis.call('HSET', K[H], id, claimed) end
      local size = #body
      q[COUNT], q[BYTES], q[RETURNED] = q[COUNT] + 1, q[BYTES] + size, q[RETURNED] + 1
      q[LARGEST] = math.max(q[LARGEST], size)
      spend(u, -1)
      if id >= q[NEXT] then q[NEXT] = id + 1 end
      if receives > 0 or releases > 0 then note_attempts(u, id, receives, releases, '', false) end
      make_ready(u, id, priority, size, expires, waits_in(origin, group))
    end
  end
  tick(u)
  save(u)
  return answer(u)
end

-- Lets messages whose leases have ended hold up others no longer. They are still there.
local function let_all_go(u, receipts)
  for _, receipt in ipairs(receipts) do
    local _, _, id, _, is_grouped = parse(receipt)
    if is_grouped then groups.let_go(u, group_of(kept(u, id)), id) end
  end
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
  if q[GROUPED] > 0 then let_all_go(u, receipts) end
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
  if noted then
    local how = tonumber(noted) % 8
    return how == END_REPLACED and REPLACED or how + 1
  end
  -- It did not end otherwise than by an acknowledgement, and its message has gone.
  if id < u.q[NEXT] and id >= u.q[PURGED] and redis.call('HEXISTS', u.K[H], id) == 0 then return END_ACKED + 1 end
  return END_UNKNOWN + 1
end

local function settle_one(u, action, receipt, number)
  local q, K = u.q, u.K
  local priority, is_mortal, id, size, is_grouped = parse(receipt)
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
      if is_grouped then groups.let_go(u, group_of(kept(u, id)), id) end
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
      make_unready(u, id, priority, size, is_mortal, is_grouped and group_of(kept(u, id)) or '')
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
  come_back(u, id, priority, is_mortal, size, is_grouped, number, true, '')
  let_through(u, 1)
  return 0
end

-- Ends or extends leases. ARGV: 3 the plan, 4... receipts. The plan is {} if all are to be acknowledged, else
-- {action, milliseconds, ...} for each: 0 acknowledge, 1 release after so long, 2 extend to so long from now (-1:
-- as it was given).
--
-- The answer is 0 if all were acknowledged. Else it is a list: 0 for done, {until, value, receives, releases} for an
-- extended lease, or how the lease ended that is over.
function verbs.settle(K, A)
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

-- Returns what is known of a message that has been leased before, and where it is: {receipt} if it is leased; else
-- {nil, priority, when its ttl is over or 0, size, the group it waits in, whether it rests}. Nil if it is not here, or
-- no consumer was ever given it.
local function found_again(u, id)
  local value = redis.call('HGET', u.K[H], id)
  if not value then return nil end
  local priority, expires, _, origin, _, group = read_head(value)
  group = waits_in(origin, group)
  local size = #value - head_length(value)
  local rests = redis.call('ZSCORE', u.K[D], entry(priority, expires > 0, id, size, group ~= ''))
  -- One that was given out and came back is not in l.
  if rests or redis.call('ZSCORE', u.K[group == '' and B or IN_GROUPS], id) then
    local receives = attempts(u, id)
    if receives == 0 then return nil end
    return { nil, priority, expires, size, group, rests and true or false }
  end
  local _, _, receipt = attempts(u, id)
  if receipt == '' or not redis.call('ZSCORE', u.K[X], receipt) then
    receipt = find_lease(u, badge(priority, expires > 0, id))
  end
  return receipt and { receipt }
end

-- Takes a message that has been leased before, and waits now, out of its place.
local function take_again(u, id, found)
  local _, priority, expires, size, group, rests = unpack(found, 1, 6)
  if rests then
    redis.call('ZREM', u.K[D], entry(priority, expires > 0, id, size, group ~= ''))
    groups.let_go(u, group, id)
  else
    make_unready(u, id, priority, size, expires > 0, group)
  end
end

-- Lets messages go for good that have been leased before, whether their leases go on or are over. ARGV: 3 the plan
-- {id, ...}. Answers for each 1, or 0 if it was not here or no consumer was ever given it.
function verbs.remove(K, A)
  local u, results = begin(K, A), {}
  if not u.q then return missing(u) end
  tick(u)
  for place, id in ipairs(cmsgpack.unpack(A[3])) do
    local found = found_again(u, id)
    if found and found[1] then
      settle_one(u, 0, found[1], 0)
    elseif found then
      take_again(u, id, found)
      local _, _, lapsed, is_noted = attempts(u, id)
      if lapsed ~= '' then redis.call('ZREM', K[E], lapsed) end
      drop(u, id, found[4], is_noted)
      u.q[ACKED] = u.q[ACKED] + 1
    end
    results[place] = found and 1 or 0
  end
  save(u)
  return answer(u, results)
end

-- Lets messages go for good that no consumer holds. ARGV: 3 the plan {id, ...}. Answers for each 1; or 0 if it was not
-- here; or, in a list, when the lease is over that it has.
function verbs.erase(K, A)
  local u, results = begin(K, A), {}
  if not u.q then return missing(u) end
  tick(u)
  for place, number in ipairs(cmsgpack.unpack(A[3])) do
    local id, result = string.format('%d', number), 0
    local value = redis.call('HGET', K[H], id)
    if value then
      local priority, expires, _, origin, _, group = read_head(value)
      group = waits_in(origin, group)
      local size = #value - head_length(value)
      result = 1
      if redis.call('ZREM', K[D], entry(priority, expires > 0, id, size, group ~= '')) == 1 then
        groups.let_go(u, group, id)
      elseif redis.call('ZSCORE', K[group == '' and B or IN_GROUPS], id) then
        make_unready(u, id, priority, size, expires > 0, group)
      elseif redis.call('LREM', K[L], 1, id) == 1 then
        u.ready = u.ready - 1
      else
        local _, ends = find_lease(u, badge(priority, expires > 0, id))
        result = { ends and ends - LEASE_SLACK or 0 }
      end
      if result == 1 then
        local _, _, lapsed, is_noted = attempts(u, id)
        close_lapse(u, lapsed, END_DELETED)
        drop(u, id, size, is_noted)
        u.q[CLEARED] = u.q[CLEARED] + 1
      end
    end
    results[place] = result
  end
  save(u)
  return answer(u, results)
end

-- Keeps messages from consumers that have been leased before. ARGV: 3 the plan {id, milliseconds from now, ...}: a
-- lease that goes on lasts until then. Answers as `remove`.
function verbs.hide(K, A)
  local u, plan, results = begin(K, A), cmsgpack.unpack(A[3]), {}
  if not u.q then return missing(u) end
  tick(u)
  for at = 1, #plan, 2 do
    local id, rest = plan[at], plan[at + 1]
    local found = found_again(u, id)
    local is_extended = found and found[1] and type(settle_one(u, 2, found[1], rest)) == 'table'
    -- It may just have ended.
    if found and found[1] and not is_extended then found = found_again(u, id) end
    if found and not is_extended then
      local _, priority, expires, size, group, rests = unpack(found, 1, 6)
      local receives, releases, lapsed, is_noted = attempts(u, id)
      if lapsed ~= '' and not rests then
        close_lapse(u, lapsed, END_GIVEN)
        note_attempts(u, id, receives, releases, '', is_noted)
      end
      take_again(u, id, found)
      if rest > 0 then
        local due = u.now + rest
        if expires > 0 and expires < due then due = expires end
        redis.call('ZADD', K[D], due, entry(priority, expires > 0, id, size, group ~= ''))
        watch(u, due)
        if group ~= '' then groups.hold(u, group, id) end
      else
        make_ready(u, id, priority, size, expires, group)
      end
    end
    results[#results + 1] = found and 1 or 0
  end
  save(u)
  return answer(u, results)
end
