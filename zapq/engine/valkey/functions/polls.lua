-- Long polls: a front end that waits no longer

-- Takes a front end out of the line for consumers. ARGV: 3 the front end. If it was told of messages that it has no
-- consumer for any more, the next one in the line is told instead.
function verbs.leave(K, A)
  local u = begin(K, A)
  redis.call('ZREM', K[W], A[3])
  local q = u.q
  if q and not u.new and q[WAITED] == 1 and q[PAUSED] == 0 then
    u.ready = number_to_give(u)
    if u.ready > 0 then save(u) end
  end
  return answer(u)
end
