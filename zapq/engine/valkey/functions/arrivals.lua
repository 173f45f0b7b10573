-- When messages arrived: from which id on they came at which time, in field `t` of h: {id, time, id, time, ...}
--
-- As core/ages.py has it, but with one note a second at most, so that hardly any enqueue pays for one. An age is never
-- too low, and too high by a second or by `tolerance` of it at most.

-- One table, for Lua has room for 200 names.
local arrivals = {
  every = 1000, -- milliseconds from one note to the next
  most = 128, -- notes of a queue: some 1.8 KiB, read and written once a second while it is not empty
  tolerance = 0.2,
  groups = @GROUPS_LOOKED_AT@,
}

-- Forgets notes that tell ages hardly more exactly.
function arrivals.thinned(notes, now)
  local tolerance = arrivals.tolerance
  repeat
    local kept = { notes[1], notes[2] }
    for at = 3, #notes, 2 do
      local following = notes[at + 3]
      -- Without this note all up to the next one would count as having come with the one that was kept last.
      if not following or following - kept[#kept] > tolerance * (now - following) then
        kept[#kept + 1], kept[#kept + 2] = notes[at], notes[at + 1]
      end
    end
    notes, tolerance = kept, 2 * tolerance
  until #notes <= 2 * arrivals.most
  return notes
end

-- Returns the value of `t`, for a step that gives ids from `u.first` on.
function arrivals.noted(u)
  -- Of what came into an empty queue, nothing older is to be told.
  local known = u.held > 0 and redis.call('HGET', u.K[H], 't')
  local notes = known and cmsgpack.unpack(known) or {}
  notes[#notes + 1], notes[#notes + 2] = u.first, u.now
  u.q[NOTED_AT] = u.now
  return cmsgpack.pack(#notes > 2 * arrivals.most and arrivals.thinned(notes, u.now) or notes)
end

-- Returns when the message with this id arrived, or somewhat before; -1 if that is not known, for an older version of
-- the library noted nothing.
function arrivals.time_of(u, id)
  local known = redis.call('HGET', u.K[H], 't')
  if not known then return -1 end
  local notes = cmsgpack.unpack(known)
  for at = #notes - 1, 1, -2 do
    if notes[at] <= id then return notes[at + 1] end
  end
  return -1
end
