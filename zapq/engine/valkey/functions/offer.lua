function verbs.version()
  return VERSION
end

-- Returns the keys of a function about a queue in the order of this version. A front end of an earlier one, which has
-- not been replaced yet, names none of groups.
local function in_this_order(K)
  if string.sub(K[IN_GROUPS], -4) ~= ':due' then return K end
  local all, before = { unpack(K, 1, O) }, string.sub(K[H], 1, -2)
  all[IN_GROUPS], all[BY_GROUP], all[TURNS] = before .. 'a', before .. 'n', before .. 't'
  for place = O + 1, #K do all[place + 3] = K[place] end
  return all
end

-- What frees memory, or only looks, works as well when the server has none left.
local function register(name, callback, ...)
  redis.register_function({ function_name = 'zapq_1_' .. name, callback = callback, flags = { ... } })
end

local function offer(name, ...)
  local verb = verbs[name]
  register(name, function(K, A) return verb(in_this_order(K), A) end, ...)
end

offer('put')
offer('put_unique')
offer('take', 'allow-oom')
offer('give_back', 'allow-oom')
offer('settle', 'allow-oom')
offer('remove', 'allow-oom')
offer('hide', 'allow-oom')
offer('remember', 'allow-oom')
offer('recall', 'allow-oom')
offer('erase', 'allow-oom')
offer('peek', 'allow-oom')
offer('find', 'allow-oom')
offer('describe', 'allow-oom')
offer('configure')
offer('feed')
offer('pause', 'allow-oom')
offer('purge', 'allow-oom')
offer('delete', 'allow-oom')
offer('outbox', 'no-writes')
offer('adopt')
offer('done', 'allow-oom')
offer('letters', 'allow-oom')
offer('room', 'allow-oom')
offer('redrive')
offer('leave', 'allow-oom')
register('sweep', verbs.sweep, 'allow-oom')
offer('due', 'allow-oom')
register('figures', verbs.figures, 'no-writes')
register('sums', verbs.sums, 'no-writes')
offer('repair', 'allow-oom')
offer('export', 'no-writes')
offer('export_ids', 'no-writes')
offer('export_some', 'no-writes')
offer('import')
offer('import_some')
offer('import_keys')
offer('import_end', 'allow-oom')
register('version', verbs.version, 'no-writes')
