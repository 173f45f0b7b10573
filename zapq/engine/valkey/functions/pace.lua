-- Limits of a queue: messages a second, and leases at once, as core/pace.py has them

-- The field p of h says when the bucket of tokens is full again, in milliseconds.
local function full_at(u)
  if not u.full_at then u.full_at = tonumber(redis.call('HGET', u.K[H], 'p') or 0) end
  return u.full_at
end

local function burst_of(own)
  return own.burst or (own.rate and math.max(math.ceil(own.rate), 1)) or 1
end

local function next_token(u)
  return full_at(u) - (burst_of(u.settings) - 1) * 1000 / u.settings.rate
end

local function room_for_leases(u, leasing)
  return math.max(u.settings.max_leased - redis.call('ZCARD', u.K[X]) - leasing, 0)
end

-- Returns how many of `number` messages may be given now. `leasing` is how many of this step are not leased yet, but
-- will be.
local function allowed(u, number, is_lease, leasing)
  local own = u.settings
  if own.rate then
    if u.now < next_token(u) then return 0 end
    local burst, left = burst_of(own), full_at(u) - u.now
    if left > 0 then burst = math.max(math.floor(burst - left * own.rate / 1000 + 0.000001), 1) end
    number = math.min(number, burst)
  end
  if is_lease and own.max_leased then number = math.min(number, room_for_leases(u, leasing)) end
  return number
end

-- Notes that a consumer is held back by the limits, if there is something it is held back from.
local function hold_back(u, is_lease, leasing)
  if not has_some(u) then return end
  u.limited = true
  u.full = is_lease and u.settings.max_leased and room_for_leases(u, leasing) == 0
end

-- Returns when the limits let a message through that held one back.
local function let_through_at(u)
  local at = 0
  if u.settings.rate and next_token(u) > u.now then at = math.ceil(next_token(u)) end
  if u.full then at = math.max(at, first_time(u.K[X])) end
  return at
end

-- Takes tokens for so many messages; gives some back, if it is less than none.
local function spend(u, number)
  local rate = u.settings.rate
  if not rate or number == 0 then return end
  u.full_at = (number > 0 and math.max(full_at(u), u.now) or full_at(u)) + number * 1000 / rate
  u.has_spent = true
end

-- Notes that so many leases have ended: as many consumers that wait may have a message now.
local function let_through(u, number)
  if u.settings.max_leased and has_some(u) then u.ready = u.ready + number end
end
