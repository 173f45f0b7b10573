#!lua name=zapq_1
-- Every verb of a zapq queue, one function each: atomic on one shard, in one unit of replication.
--
-- A queue, by the last part of its keys' names:
--
--   h  hash    s          the state, as below
--              c          the settings, where some are not the default
--              r          how fast it is emptied, once a producer was refused
--              p          when its bucket of tokens is full again, if its deliveries are limited
--              f          the queues whose dead letters come here
--              i          the mark of the file that is being loaded into it
--              u KEY      the id of the message that has a key, or had it; see unique.lua
--              k NUMBER   those keys, in the order in which they are looked at
--              t          when messages arrived; see arrivals.lua
--              ID         the body of a message, its head before it: written once, so replicated once
--              c ID       how often a message was delivered, once it came back
--   l  list    ids of messages that are ready for the first time and have neither a priority nor a ttl, oldest first
--   b  zset    ids of all other ready messages, by rank: the id, less 2^48 for each step of priority
--   d  zset    delayed messages, by when they are due
--   x  zset    leases, by when they end; a member is the receipt itself, so an old one is simply not there
--   m  zset    ready messages with a ttl, by when it is over
--   e  zset    receipts whose leases ended in another way than by an acknowledgement, and how
--   w  zset    front ends with consumers that wait here, the one that has waited longest first
--   o  list    the outbox: messages for queues of other shards; they are here until those queues have them
--   g  hash    what came last out of the outbox of each queue that sends messages here
--   a  zset    ids of the ready messages that are in a group, by id
--   n  zset    what is in a group, in the order of the names: the group, a space, r if it is ready or o if it is leased
--              or delayed, and its id in 12 hexadecimal digits
--   t  zset    groups with ready messages, by when it is their turn; those that can give none are at infinity
--
-- A message is in exactly one of l, b, a, d and x, and leaves it in the step in which it enters another. What must be
-- removable from the middle is in b and not in l, so no entry ever stands for nothing.
--
-- The members of d and m, and receipts up to their nonces, say what is known of the message: 9 less its priority, 1 if
-- it has a ttl, its id in 12 hexadecimal digits, and a dash, or g if it is in a group. So they are in the order of
-- their ranks where their times are equal, and few bodies are read only to learn what is in their heads.
--
-- A dead letter keeps its group, but here it is in none: it holds up nothing.
--
-- Of a shard: `due`, a zset of queues by when something is due in them, never later than that; `queues`, a zset of
-- their names, all with the score 0; and `past`, what queues had counted that were deleted.
--
-- A function that fails half-way leaves what it has written. So all is checked before the first write, and no
-- function asks for more than 7,999 values at once.
--
-- Functions are named with every key they touch: while a slot moves key by key, the server then answers TRYAGAIN,
-- and no function sees half a queue. Only `figures` and `sums`, which change nothing, look further.

local verbs = {} -- what callers can call, by name

local TEST = false -- whether callers may say what time it is
local VERSION = 5

-- Limits, from limits.py
local DEFAULT_VISIBILITY = @DEFAULT_VISIBILITY@
local MAX_BATCH_BYTES = @MAX_BATCH_BYTES@
local IDEMPOTENCY_WINDOW = @IDEMPOTENCY_WINDOW@
local ATTEMPT_WINDOW = @ATTEMPT_WINDOW@
local RELEASES_AT_ONCE = @RELEASES_AT_ONCE@
local BACKOFF = @BACKOFF@
local MAX_BACKOFF = @MAX_BACKOFF@
local LEASE_SLACK = @LEASE_SLACK@
local DRAIN_WINDOW = @DRAIN_WINDOW@
local MIN_RETRY_AFTER = @MIN_RETRY_AFTER@
local MAX_RETRY_AFTER = @MAX_RETRY_AFTER@
local REDRIVE_LOOKS = @REDRIVE_LOOKS@
local BLOCKERS_LOOKED_AT = @BLOCKERS_LOOKED_AT@
local TICKS = 1000 -- of each kind done in one call: some 10 ms
local AT_ONCE = 2000 -- elements given to one command: well below what Lua's stack holds
local ENDS_KEPT = 3600000 -- milliseconds for which it is known how a lease ended ...
local MOST_ENDS = 100000 -- ... unless so many others have ended since
local WAITING_KEPT = 60000 -- milliseconds for which a line of front ends is kept that none of them renews
local IDS_SKIPPED = 1048576 -- what a failover may have lost is given no second time

local STEP = 281474976710656 -- 2^48: a rank is exact in a double, up to 2^48 ids and priority 9

-- Keys, by their places
local H, L, B, D, X, M, E, W, O, IN_GROUPS, BY_GROUP, TURNS = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12
local DUE_INDEX, NAMES, FURTHER = 13, 14, 15

-- The state, by places. Most are 0, and take one byte each.
local NEXT = 1 -- the next id
local COUNT = 2 -- messages held
local BYTES = 3
local DUE = 4 -- when something is due next, or 0; it may say too early a time
local INDEXED = 5 -- what the shard's index says of that
local PAUSED = 6
local LINED = 7 -- ids in b
local NOTED = 8 -- fields `c ID` in h
local LARGEST = 9 -- bytes of the largest body there was since the queue was empty
local WAITED = 10 -- whether there may be front ends in w
local OUT = 11 -- messages in the outbox
local SENT = 12 -- the number of the last one there was
local EPOCH = 13 -- of which master the ids are
local EPOCH_BEFORE = 14
local BORN = 15 -- when it was made, in microseconds: tells it from an earlier queue of its name
local PURGED = 16 -- ids below this one were purged, or had gone before
local ENQUEUED = 17
local DEQUEUED = 18
local RECEIVED = 19
local ACKED = 20
local RELEASED = 21
local LEASES_EXPIRED = 22
local EXPIRED = 23
local DEAD_LETTERED = 24
local REDRIVEN = 25
local REFUSED = 26
local RETURNED = 27
local CLEARED = 28
local ARRIVED = 29
local UNCERTAIN = 30
local TAG = 31 -- tells its receipts from those of other queues, earlier ones of its name included
local GROUPED = 32 -- what is in n
local TURN = 33 -- the last turn of a group, in a fair queue ...
local TURN_OF_OTHERS = 34 -- ... and that of the messages without a group
local KEYS_FIRST = 35 -- the number of the first `k NUMBER` in h ...
local KEYS_NEXT = 36 -- ... and that of the next one
local NOTED_AT = 37 -- when it was last noted that messages arrived
local PLACES = 37

-- How a lease ended: the numbers of core/leases.py
local OF_ANOTHER = 9 -- said instead of it, for a receipt of another queue
local END_UNKNOWN, END_ACKED, END_RELEASED, END_EXPIRED = 0, 1, 2, 3
local END_GIVEN, END_DEAD_LETTERED, END_OUTLIVED, END_DELETED = 4, 5, 6, 7
-- There is room for no more numbers where ends are noted, but the end by an acknowledgement never is.
local END_REPLACED, REPLACED = 1, 10 -- as it is noted, and as it is said
