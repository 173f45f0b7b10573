local function version()
  return VERSION
end

-- What frees memory, or only looks, works as well when the server has none left.
local function offer(name, callback, ...)
  redis.register_function({ function_name = 'zapq_1_' .. name, callback = callback, flags = { ... } })
end

offer('put', put)
offer('take', take, 'allow-oom')
offer('give_back', give_back, 'allow-oom')
offer('settle', settle, 'allow-oom')
offer('peek', peek, 'allow-oom')
offer('find', find, 'allow-oom')
offer('describe', describe, 'allow-oom')
offer('configure', configure)
offer('feed', feed)
offer('pause', pause, 'allow-oom')
offer('purge', purge, 'allow-oom')
offer('delete', delete, 'allow-oom')
offer('outbox', outbox, 'no-writes')
offer('adopt', adopt)
offer('done', done, 'allow-oom')
offer('letters', letters, 'allow-oom')
offer('room', room, 'allow-oom')
offer('redrive', redrive)
offer('leave', leave, 'allow-oom')
offer('sweep', sweep, 'allow-oom')
offer('due', due, 'allow-oom')
offer('figures', figures, 'no-writes')
offer('sums', sums, 'no-writes')
offer('repair', repair, 'allow-oom')
offer('version', version, 'no-writes')
