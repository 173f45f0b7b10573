-- Groups: within each, a message waits until all earlier ones are done with, as core/groups.py has it
--
-- Here a group is known by its key and its messages by their ids; `messages.lua` knows of which group a message is.
-- A group that has ready messages stands in t, at its place if it can give the first of them, else at infinity: the
-- place is the id of that message, or in a fair queue a number that says when it is its turn.

local groups = {}

function groups.member_of(group, state, id)
  return string.format('%s %s%012x', group, state, id)
end

-- Returns the id of the first message of a group that is ready ('r'), or leased or delayed ('o'); or nil.
function groups.first(u, group, state)
  local from = group .. ' ' .. state
  local first = redis.call('ZRANGE', u.K[BY_GROUP], '[' .. from, '(' .. from .. 'g', 'BYLEX', 'LIMIT', 0, 1)[1]
  return first and tonumber(string.sub(first, -12), 16)
end

-- Lets a group stand where its first ready message and its first one that is out put it. One that was `served` has
-- had its turn. A group that opens is for one consumer; a take that leaves it open has the next one woken.
local function stand(u, group, served)
  local key = u.K[TURNS]
  local before = not served and redis.call('ZSCORE', key, group)
  local was_open = before and before ~= 'inf'
  local head, out = groups.first(u, group, 'r'), groups.first(u, group, 'o')
  if not head then
    redis.call('ZREM', key, group)
  elseif out and out < head then
    if before ~= 'inf' then redis.call('ZADD', key, 'inf', group) end
  elseif not u.settings.fair then
    redis.call('ZADD', key, head, group)
  elseif not was_open then
    u.q[TURN] = u.q[TURN] + 1
    redis.call('ZADD', key, u.q[TURN], group)
  end
  if head and not (out and out < head) and not (was_open or served) then u.ready = u.ready + 1 end
end

local function put_in(u, group, state, id)
  u.q[GROUPED] = u.q[GROUPED] + redis.call('ZADD', u.K[BY_GROUP], 0, groups.member_of(group, state, id))
end

local function take_out(u, group, state, id)
  u.q[GROUPED] = u.q[GROUPED] - redis.call('ZREM', u.K[BY_GROUP], groups.member_of(group, state, id))
end

-- Enters a ready message, which may have been out.
function groups.enter(u, group, id)
  take_out(u, group, 'o', id)
  redis.call('ZADD', u.K[IN_GROUPS], id, id)
  put_in(u, group, 'r', id)
  stand(u, group)
end

-- Enters messages that are the last of all: `ready` are ids and `out` those of delayed ones, by group; `order` has the
-- groups as they came.
function groups.append(u, order, ready, out)
  local by_id, by_group = {}, {}
  for _, group in ipairs(order) do
    for _, id in ipairs(ready[group]) do
      by_id[#by_id + 1], by_id[#by_id + 2] = id, id
      by_group[#by_group + 1], by_group[#by_group + 2] = 0, groups.member_of(group, 'r', id)
    end
    for _, id in ipairs(out[group]) do
      by_group[#by_group + 1], by_group[#by_group + 2] = 0, groups.member_of(group, 'o', id)
    end
  end
  in_pieces('ZADD', u.K[IN_GROUPS], by_id)
  u.q[GROUPED] = u.q[GROUPED] + in_pieces('ZADD', u.K[BY_GROUP], by_group)
  for _, group in ipairs(order) do
    -- Behind others, they change nothing.
    if #ready[group] > 0 and not redis.call('ZSCORE', u.K[TURNS], group) then stand(u, group) end
  end
end

-- Lets a message that is not ready hold up the later ones of its group.
function groups.hold(u, group, id)
  put_in(u, group, 'o', id)
  stand(u, group)
end

-- Lets a message that was leased or delayed hold up others no longer.
function groups.let_go(u, group, id)
  if group == '' then return end
  take_out(u, group, 'o', id)
  if redis.call('ZSCORE', u.K[TURNS], group) == 'inf' then stand(u, group) end
end

-- Removes a ready message from its group.
function groups.remove(u, group, id)
  redis.call('ZREM', u.K[IN_GROUPS], id)
  take_out(u, group, 'r', id)
  stand(u, group)
end

-- Returns the first group that can give a message, and its place; or nil.
function groups.next(u)
  local first = redis.call('ZRANGE', u.K[TURNS], 0, 0, 'WITHSCORES')
  if first[1] and first[2] ~= 'inf' then return first[1], tonumber(first[2]) end
end

-- Takes the first ready message out of a group that can give it. With `is_held` it holds up those behind it.
function groups.pop(u, group, id, is_held)
  redis.call('ZREM', u.K[IN_GROUPS], id)
  take_out(u, group, 'r', id)
  if is_held then put_in(u, group, 'o', id) end
  stand(u, group, true)
end

-- Lets messages hold up those behind them that were taken together by one consumer: ids by group.
function groups.hold_taken(u, taken)
  for group, ids in pairs(taken) do
    for _, id in ipairs(ids) do put_in(u, group, 'o', id) end
    stand(u, group, true)
  end
end

-- Returns whether messages are ready, and wait for earlier ones of their groups.
function groups.is_blocked(u)
  return u.q[GROUPED] > 0 and redis.call('ZRANGE', u.K[TURNS], -1, -1, 'WITHSCORES')[2] == 'inf'
end

-- Lets places say what they are to say with these settings, which are to hold from now on.
function groups.configure(u, own)
  local was_fair, is_fair, q = u.settings.fair or false, own.fair or false, u.q
  if was_fair == is_fair then return end
  if is_fair then
    -- The groups stand in the order of their first messages. Turns go on behind them.
    q[TURN], q[TURN_OF_OTHERS] = math.max(q[TURN], q[NEXT]), 0
    return
  end
  local places = {}
  for _, group in ipairs(redis.call('ZRANGE', u.K[TURNS], '-inf', '(inf', 'BYSCORE')) do
    places[#places + 1], places[#places + 2] = groups.first(u, group, 'r'), group
  end
  in_pieces('ZADD', u.K[TURNS], places)
end

-- Returns how many messages are ready, also such as no consumer can be given now.
local function number_of_ready(u)
  local number = redis.call('LLEN', u.K[L]) + u.q[LINED]
  return u.q[GROUPED] > 0 and number + redis.call('ZCARD', u.K[IN_GROUPS]) or number
end

-- Returns how many consumers can be given a message, each of one group, unless the queue is paused.
local function number_to_give(u)
  local number = redis.call('LLEN', u.K[L]) + u.q[LINED]
  return u.q[GROUPED] > 0 and number + redis.call('ZCOUNT', u.K[TURNS], '-inf', '(inf') or number
end

-- Returns whether a consumer can be given a message, unless the queue is paused, or its limits hold it back.
local function has_some(u)
  if redis.call('LLEN', u.K[L]) + u.q[LINED] > 0 then return true end
  return u.q[GROUPED] > 0 and groups.next(u) ~= nil
end
