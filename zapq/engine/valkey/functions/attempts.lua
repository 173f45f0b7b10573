-- Consumers that ask again: what was received under an attempt id

-- Notes what was received under an attempt: when that is forgotten, and each receipt with when its lease ends.
local function note_attempt(u, forgotten, receipts)
  local noted = { forgotten }
  if not receipts[1] then return 0 end
  for place, ends in ipairs(redis.call('ZMSCORE', u.K[X], unpack(receipts))) do
    if not ends then return 0 end
    noted[2 * place], noted[2 * place + 1] = receipts[place], ends
  end
  redis.call('SET', u.K[FURTHER], cmsgpack.pack(noted), 'PX', math.ceil(forgotten - u.now))
  return 1
end

-- Returns the receipts of an attempt and when it is forgotten; nil if a lease of it is not as it was, or it is not
-- known.
local function noted_attempt(u)
  local kept = redis.call('GET', u.K[FURTHER])
  if not kept then return nil end
  local noted, receipts = cmsgpack.unpack(kept), {}
  if noted[1] <= u.now then return nil end
  for at = 2, #noted, 2 do
    local ends = redis.call('ZSCORE', u.K[X], noted[at])
    if ends ~= noted[at + 1] or tonumber(ends) - LEASE_SLACK <= u.now then return nil end
    receipts[#receipts + 1] = noted[at]
  end
  return receipts, noted[1]
end

-- Takes note of what was received under an attempt. ARGV: 3... receipts, of leases that go on. Further key: the
-- attempt. Answers whether all of them do.
function verbs.remember(K, A)
  local u = begin(K, A)
  if not u.q then return missing(u) end
  return answer(u, note_attempt(u, u.now + ATTEMPT_WINDOW, { unpack(A, 3) }))
end

-- Gives what was received under an attempt once more. ARGV: 3 for how many milliseconds from now each lease lasts, or
-- -1: as it was given. Further key: the attempt. Answers with receipts, and behind each of them what `settle` answers
-- for a lease that was extended; with none of them, unless each lease is as it was.
function verbs.recall(K, A)
  local u, results = begin(K, A), {}
  if not u.q then return missing(u) end
  tick(u)
  local receipts, forgotten = noted_attempt(u)
  if receipts then
    for place, receipt in ipairs(receipts) do
      results[2 * place - 1], results[2 * place] = receipt, settle_one(u, 2, receipt, tonumber(A[3]))
    end
    note_attempt(u, forgotten, receipts)
  else
    redis.call('DEL', K[FURTHER])
  end
  save(u)
  return answer(u, results)
end
