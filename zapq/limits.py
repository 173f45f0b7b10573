"""Every limit that is no setting, and the defaults of requests, each with its reason."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

MAX_WAIT = 60.0
"""Seconds one long poll may last: below the usual idle timeout of proxies, and every parked request ends."""
MAX_VISIBILITY = 43_200.0
"""Seconds a lease may last, as with Amazon's SQS: half a day of work, and extending it is always possible."""
DEFAULT_VISIBILITY = 30.0
"""Seconds a lease lasts by default: longer than most handlers work, short enough to wait for a dead one."""
MAX_DELAY = 365 * 86_400.0
"""Seconds a message may be delayed or kept at most: longer is a calendar and not a queue."""
MAX_PRIORITY = 9
"""Priorities are 0 to this one; each has a line of its own in every queue."""
MAX_RECEIVES = 1_000_000
"""The highest `max_receives`: more would mean no limit."""
MIN_RATE = 1e-5
"""Deliveries of a queue in a second, the lowest `rate`: a little less than one a day. Slower is a calendar."""
MAX_RATE = 1e6
"""The highest: by far more than a queue can give, so more would mean no limit."""
MAX_BURST = 1_000_000
"""The highest `burst`, for the same reason."""
MAX_LEASED = 1_000_000_000
"""The highest `max_leased`: more than there can be in memory."""
RELEASES_AT_ONCE = 3
"""Times a message may be given back without a delay before it rests: transient failures pass, poison does not."""
BACKOFF = 1.0
"""Seconds it rests then; twice as long each further time ..."""
MAX_BACKOFF = 60.0
"""... up to this."""
TOKEN_VARIABLE = "ZAPQ_TOKEN"  # noqa: S105 (the name of a place, not what is there)
"""Where the environment has a token: one the server lets in, or the one a command shows to a server."""
URL_VARIABLE = "ZAPQ_URL"
"""Where the environment says which server a command asks."""
DEFAULT_URL = "http://127.0.0.1:8080"
"""The server a command asks where nothing says which."""
MAX_LOGGED_PATHS = 1024
"""Paths for which it is remembered how the access log shows them: as many as there are queues by default."""
MIN_TOKEN = 16
"""Characters of a token people choose: at a thousand guesses a second, even half as many random ones last."""
TOKEN_BYTES = 32
"""Random bytes in a token of ours: as many as its SHA-256 has."""
MAX_GRANTS = 1000
"""Credentials in a token file: each token shown is compared with all of them, which then takes 0.2 ms."""
MAX_TOKEN_FILE_BYTES = 1 * MIB
"""A token file at most: so many lines, and a kilobyte of comments for each."""
CREDENTIALS_REMEMBERED = 4096
"""Credentials whose meaning is remembered: all there can be, and some that are wrong."""
DEFAULT_QUEUE = "default"
"""The queue the drop-in endpoints are about."""
SNAPSHOT_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
"""A snapshot's file name, as a regular expression: a bare one, not hidden, and no option of a command."""
MIN_SNAPSHOT_EVERY = 1.0
"""Seconds between two automatic snapshots at least: their names tell seconds."""
QUEUE_NAME = "[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}"
"""A queue's name, as a regular expression: plain in a path and a metric's label, and never `.` or `..`."""
NOTE_NAME = r"[\x21-\x7e][^\x00-\x1f]{0,199}"
"""A note's name, as a regular expression: what it is about, and a tag of SQS behind that, with 128 characters."""
MAX_NOTES = 100
"""Notes of one queue: 50 tags, and as many other facts."""
MAX_NOTE = 16 * KIB
"""Characters of one note: a policy of SQS, and as much again. Notes are written whenever settings change."""
ACKS_REMEMBERED = 2**20
"""Deliveries for which it is known how they ended: a byte each, some 20 s at full speed."""
LAPSES_REMEMBERED = 10_000
"""Expired leases of each queue that may still be acknowledged: some 300 bytes each, beside the message."""
MAX_TURN = 0.05
"""Seconds by which each lease lasts longer than its consumer is told. It counts from when the turn began in
which it was given, and its answer is made by the end of that turn. No turn lasts half as long."""
BLOCKERS_LOOKED_AT = 100
"""Leases and delays looked at for one that no other holds up, when a consumer is told when to come back: mostly it
is the first one."""
ARRIVALS_KEPT_SECONDS = 5.0
"""Seconds after which it is kept on the disk anew when messages of a queue arrived, while some do: 8 KiB at most.
After a crash ages may be too high by that."""
GROUPS_LOOKED_AT = 1000
"""Groups of a fair queue looked at for the oldest message, those that are next: 30 us."""
LEASES_INDEXED = 20_000
"""Leases of one queue beyond which each has an entry by its message: making so many, when a client first looks for
a message, takes 2 ms."""
TICK_LIMIT = 500
"""Leases, delays and ttls of one queue ended in one go, each: some 2 ms, of which a turn may have several."""
TICK_BYTES = 1 * MIB
"""Bytes of messages that become dead letters in one go; the other leases end in the next. A dead letter is written
anew, and on a full disk the log has room for so many."""
DISMISSALS = 64
"""Waiters told in one go that we are draining, each of which may be a request that takes 2 ms: 0.1 s, after which
deadlines are looked at, as that of a shutdown."""
MIN_RETRY_AFTER = 1
"""Seconds, the least a refused producer is asked to wait: HTTP knows no fractions here."""
MAX_RETRY_AFTER = 60
"""The most: by then things may have changed."""
DRAIN_WINDOW = 5.0
"""Seconds over which a queue's drain rate is measured: long enough for batches, short enough for a change."""
LISTED_AT_ONCE = 100
"""Queues listed in one go: some 0.3 ms, after which others have their turn."""
HISTORY_SECONDS = 5.0
"""Seconds between two samples of what queues hold: 0.7 ms of CPU for 100 queues."""
HISTORIES = 100
"""Queues whose history one answer tells: 60,000 numbers, some 3 ms."""
SIGNAL_ECHO_SECONDS = 0.1
"""Seconds in which a second signal counts as the first: `timeout`, and shells with a group, send two at once."""
NAMES_SHOWN = 10
"""Names that one line of the log lists; it says how many there are besides."""
NAMES_MATCHED_AT_ONCE = 5000
"""Names that are compared with a pattern in one go, in 1 ms; with two patterns half as many."""
HISTORY_SAMPLES = 120
"""Samples that are kept of each queue, ten minutes of them: 2.4 KB."""
REFUSALS_KEPT = 100
"""Refused requests that are remembered, for operators who ask why: some 30 KB."""
MAX_ID_DIGITS = 18
"""Digits of a message's id: a number of that length fits in the 64 bits in which ids travel between processes."""
MAX_BATCH = 1000
"""Messages in one batch: by then what a request costs is lost in what its messages cost."""
REDRIVE_LOOKS = 2000
"""Dead letters one redrive looks at: too large ones are passed over, and looking at so many takes 4 ms."""
MAX_BATCH_BYTES = 8 * MIB
"""Bytes of one batch: it is held, decoded and sent whole, and others wait for that, 7 to 17 ms."""
MAX_SQS_BYTES = 3 * MIB + 256 * KIB
"""Bytes of one SQS request: SDKs write what is not ASCII, 2 to 4 bytes, in 6 to 12, and names stand around it."""
MAX_HOT_SQS_BYTES = 64 * KIB
"""Bytes of one that the fast road answers: most are whole when they arrive, and take less than 0.5 ms."""
MAX_OTHER_BODIES_BYTES = 64 * MIB
"""Bytes of bodies that are no messages (settlements, settings) and not complete yet, of all clients: eight of the
largest. Full queues keep no consumer from settling, and this keeps consumers from filling the memory."""
SMALL_BODY_BYTES = 4 * KIB
"""The part of each that does not count there, some fifty settlements: no client keeps others from those, and all
connections together have 40 MiB of it."""
MAX_WAITING_BYTES = 64 * MIB
"""Bytes of messages that wait for room, of all producers: as many as of other bodies. Beyond it none waits."""
WAITING_MESSAGE_BYTES = 200
"""What such a message needs beside its body, about: a batch may have very many small ones."""
IDEMPOTENCY_WINDOW = 300.0
"""Seconds an Idempotency-Key is kept: clients give up retrying long before."""
KEYS_FORGOTTEN = 16
"""Keys that are forgotten when one is remembered: several, so that all whose time is over go in the end, and few,
so that no request pays for many."""
MAX_KEYS = 100_000
"""Idempotency-Keys kept at once, some 30 MiB; beyond it, the oldest go early."""
MAX_DEDUPLICATION_IDS = 1_000_000
"""Deduplication ids of FIFO queues known at once, if the setting does not say, some 250 MiB: what one of Amazon's
FIFO queues takes in five minutes (300 batches of ten a second). Beyond it, messages are refused."""
ATTEMPT_WINDOW = 300.0
"""Seconds a ReceiveRequestAttemptId of SQS is known, as with Amazon."""
MAX_ATTEMPTS = 10_000
"""Of them known at once, of all queues, some 20 MiB; beyond it, the oldest go early: a consumer that asks again
does so within seconds."""
PEEK = 10
"""Messages a peek shows when the client does not say."""
CHECKPOINT_PAGES = 1000
"""Pages of 4 KiB in the database's log before it is emptied: some 5 ms of work that no client waits for."""
SPARE_PAGES = 4096
"""Free pages of 4 KiB the database may always have: 16 MiB, for which the next burst need not ask the disk."""
DISK_RESERVE = 12 * MIB
"""Bytes of the disk set aside for taking and settling messages once it is full. That is the database's log at
its usual length, which may need twice as much in the file, and a third for changes that are on their way or come
of consumers."""
DISK_MARGIN = 2 * MIB
"""Bytes of them that no message is stored in: the counts of some 50,000 deliveries."""
UNCHECKED_BYTES = 256 * KIB
"""Bytes of messages one commit may store without a look at the free space: few beside the reserve. The look takes
10 us, the commit of so many a millisecond."""
PACK_LEAST = 8
"""Messages that are one row on the disk if they come together: for fewer it costs more than it saves."""
PACK_MOST = 256
"""The most messages that are one row: to take a row apart, or to remove it, is no long work."""
PACK_BODY_BYTES = KIB
"""The longest body of a message that shares its row: beside a longer one a row costs little."""
RETRY_SECONDS = 0.25
"""Seconds between two attempts to write after the disk failed: well before clients come back."""
LOOK_SECONDS = 0.5
"""Seconds between two looks whether the database's files are at their places: two system calls, 10 us."""
CLOCK_SECONDS = 1.0
"""Seconds after which a commit keeps the time as well: one row of 12 bytes."""
QUICK_SECONDS = 0.002
"""A commit that takes less is quick. The event loop may be held up for so long: that is no more than a turn."""
QUICK_COMMITS = 10
"""So many commits in a row must have been quick before the event loop waits for the next one."""
COMMITS_REMEMBERED = 1024
"""Commits of which the metrics know how long they took."""
CLOSE_SECONDS = 5.0
"""Seconds an embedding program waits, at most, for a disk that does not answer when the service ends."""
IDS_AT_ONCE = 2**16
"""Ids a queue on disk sets aside in one write: after a crash, ids go on behind them."""
CHANNEL_BYTES = 256 * KIB
"""Bytes sent in one go to the process that has the queues, and the kernel's buffers there: a thousand small
requests."""
MAX_WORKERS = 256
"""Processes that serve clients: by far more than one process with the queues can keep busy."""
RESTART_PAUSE = 0.1
"""Seconds until a worker that died is started again; twice as long after each further time ..."""
MAX_RESTART_PAUSE = 10.0
"""... up to this: one that cannot live costs half a second of CPU each time."""
WORKER_IS_WELL = 60.0
"""Seconds after which a worker that dies does not count as one that cannot live."""
WORKER_RESERVE = 0.1
"""The part of a shutdown that workers leave for ending, and for telling the process that has the queues."""
COUNTS_SECONDS = 1.0
"""Seconds `/metrics` waits for what the other workers have counted: one that hangs must not hide the others."""
TURN_SECONDS = 0.002
"""For how long the process with the queues begins with what front ends ask before its timers and tasks have a
turn; the last of it may last a thousand requests long, some 3 ms."""
HEARD_SECONDS = 0.1
"""Seconds after which a front end says that deliveries were handed on, if it has nothing else to say. If it dies
before, they count as uncertain."""
FRAME_PATIENCE = 0.005
"""Seconds for which a front end waits for the rest of what the process with the queues is just telling it. A batch
of 8 MiB is dozens of reads; if each were a turn, all that is told behind it would wait for half a second."""
ENGINE_CONNECT_SECONDS = 5.0
"""Seconds a server of the engine may take to be connected to, and to answer what is asked once."""
ENGINE_ANSWER_SECONDS = 5.0
"""Seconds a batch may be under way to it: with no answer by then, what came of it is not known."""
ENGINE_RETRY_SECONDS = 2.0
"""Seconds for which what the engine has not done is tried again before its client is told. A failover ends ..."""
ENGINE_REPEAT_SECONDS = 10.0
"""... in this time, for which what may be done twice is repeated if no answer came."""
ENGINE_FINISH_SECONDS = 1.0
"""Seconds a front end that stops waits for the engine: messages that reached no consumer must go back."""
ENGINE_PAUSE = 0.05
"""Seconds until a server that was not reached is connected to again; twice as long after each further time ..."""
MAX_ENGINE_PAUSE = 0.5
"""... up to this."""
ENGINE_BATCH_OPERATIONS = 512
"""Operations of one batch: beyond it, merging more of them saves nothing, and the first waits for the last."""
ENGINE_BATCH_BYTES = 1 * MIB
"""Bytes of one batch, for the same reason; a larger operation is one by itself."""
ENGINE_WAITING_BYTES = 16 * MIB
"""Bytes that wait for their batch, of all clients: an engine that lags so far behind is asked for no more."""
ENGINE_WAITING_OTHERS_BYTES = 4 * MIB
"""Bytes beyond that for what brings no messages: producers keep no consumer from asking for one or settling it."""
ENGINE_OPERATION_BYTES = 256
"""What an operation counts there beside its body."""
REPLICAS_SECONDS = 1.0
"""Seconds a batch waits for its replicas, which need a millisecond each if they are well."""
RENEWAL_SECONDS = 5.0
"""Seconds after which a front end says again that consumers wait in it: a hint that was lost costs so much."""
ROOM_PAUSE = 0.05
"""Seconds until the first producer that waits for room in a queue of the engine is tried again; each time twice as
long ..."""
MAX_ROOM_PAUSE = 0.5
"""... up to this: room that other front ends make is seen so late. Messages taken or settled here are seen at
once."""
PROBED_AT_ONCE = 64
"""Consumers of one queue for which messages are asked at once: those of a batch, about."""
SWEEP_SECONDS = 1.0
"""Seconds in which each shard of the engine is looked at once, by one of all front ends."""
STATS_SECONDS = 1.0
"""Seconds `/metrics` waits for what the engine's queues hold, before it says what they held last."""
LISTING_SECONDS = 1.0
"""Seconds for which a listing of the engine's queues is remembered: making one asks every shard."""
MAX_MESSAGE_BYTES = 16 * MIB
"""The most --max-message-bytes accepts: a message is held, copied and sent whole."""
MAX_BLOCK_BYTES = 2 * MAX_MESSAGE_BYTES
"""Bytes of one block of a snapshot: what we write is at most a piece and one message more; the rest is damage."""
MAX_HEAD_BYTES = 16 * KIB
"""Request line and headers; between nginx's 8 KiB and node's 16 KiB of headers alone."""
MAX_HEADERS = 100
"""Header fields of a request, as Apache: more is an attack on the parser."""
MAX_MESSAGE_HEADERS = 16
"""Headers of one message: enough for tracing, routing and the attributes of an event. An event that needs more
has it in its body."""
MAX_MESSAGE_HEADERS_BYTES = 8 * KIB
"""Bytes of them together, names and values: so they always fit into the head of a request, and of an answer."""
MAX_HEADER_NAME = 256
"""Characters of a header's name, as of an attribute's with Amazon's SQS."""
MAX_TARGET_BYTES = 2 * KIB
"""Path and query; ours need less than 200 bytes."""
MAX_CHUNKS = 1024
"""Pieces of a chunked body: each costs parsing, and one-byte chunks would make 64 KiB cost a second of CPU."""
MAX_STREAM_RESETS = 1000
"""Streams a client may reset on one HTTP/2 connection: each costs an answer that is not read (CVE-2023-44487)."""
BACKLOG = 4096
"""Connections the kernel holds for us to accept (Linux: at most net.core.somaxconn, 4096 by default). With the
usual 100, a burst of clients loses SYNs, and each lost one costs its client a second."""
ACCEPT_PAUSE = 0.1
"""Seconds without accepting after the process ran out of descriptors: some are free again by then."""
DOOR_PAUSE = 0.001
"""Seconds for which a worker leaves new clients to those that have fewer: several of their turns."""
RECEIVE_BYTES = 64 * KIB
"""Bytes read in one go: most messages whole, and no more than a fair share of a turn. Each time, memory is taken
for as many. Were it `LARGE_BLOCK_BYTES`, the system would map it anew, and that takes six times as long."""
SEND_PIECE_BYTES = 64 * KIB
"""Bytes handed to one bounded send, so that a slow but living reader of a large message is not cut off."""
MAX_UNSENT_BYTES = 64 * MIB
"""Bytes of answers being sent, after which the slowest readers are cut off: five of the largest batches, and
hundreds of usual answers."""
LARGE_BLOCK_BYTES = 256 * KIB
"""Bytes of memory that are given back to the system as soon as they are free. That is twice the largest usual
message, so messages that come and go by the thousand do not each cost a system call."""
MAX_LOGGED_METHOD = 20
"""Characters of a request's method that are logged or said again: real ones have up to 16."""
MAX_LOGGED_PATH = 200
"""Characters of a refused request's path that are logged: enough to find the client's mistake."""
LINGER_SECONDS = 2.0
"""How long a closing connection goes on reading, so that the client sees our answer and not a reset."""
LINGER_BYTES = 1 * MIB
"""How much it reads in that time."""
MAX_HOT_HEAD_BYTES = 2 * KIB
"""The longest head answered without Hypercorn: clients of ours need 100 to 600 bytes."""
MAX_HOT_FIELDS = 32
"""The most fields of such a head: they need 3 to 12."""
HEADS_REMEMBERED = 1024
"""Heads whose meaning is remembered, in 2 MiB at most: clients repeat theirs, and have few different ones."""
LENGTHS_REMEMBERED = 32
"""Lengths of body for each head of SQS whose requests are remembered, in some 6 KiB: a client has few of them, or
too many to be worth it."""
MAX_ANSWERS = 64
"""Pipelined requests answered in one go: some 0.3 ms, after which others have their turn."""
MAX_ANSWERS_BYTES = 256 * KIB
"""Bytes of answers after which no further one is begun: what a client that does not read can make us hold."""
TURN_COST = 256
"""Small requests answered before the rest of the program runs: some 2 ms, which timers and other tasks wait."""
BYTES_PER_COST = 4 * KIB
"""Bytes received or answered that are as much work as one more small request: a batch is up to 4000 of them."""
LARGE_SECONDS = 0.001
"""For how long requests that may take milliseconds each are begun in one turn; the last may last 8 MiB long."""
PIECES_AT_ONCE = 8
"""Pieces of requests that tasks take in before the rest of the program runs: up to 64 KiB, and 0.3 ms, each."""
REQUESTS_AT_ONCE = 4
"""Requests that Quart begins to answer before the rest of the program runs: 0.5 ms each, and as much later."""
ACCEPTS = 32
"""Connections accepted in one go: some 1 ms."""
FINGERPRINT_SLICE = 1 * MIB
"""Bytes of an offer with a key that are hashed in one go: 1 ms."""
HANDSHAKE_SECONDS = 5.0
"""A TLS handshake is two round trips; a peer that needs longer is not a client."""
MAX_HANDSHAKES = 1024
"""TLS handshakes begun at once: some 40 MiB. Beyond it, the one whose client has been silent for the longest time
is given up. By then as many others have begun, in about a second of CPU: a client that wants in has answered."""
CLOSING_RESERVE = 0.25
"""The part of the grace, at most 1 s of it, kept for closing what did not end by itself; Python's end is in it."""
ENDING_RESERVE = 0.25
"""The part of it that closing the database leaves for Python's end."""
LAST_SECONDS = 0.25
"""Seconds closing the database has in any case: a disk that is well needs milliseconds, and --grace may be 0."""
SAVING_RESERVE = 0.5
"""The part of the grace kept for --snapshot-on-exit: what was accepted is worth more than a slow client."""
SPOOLED_LINES = 4096
"""Log lines that may wait to be written, some MiB: their reader may pause for a while."""
SPOOL_SECONDS = 1.0
"""How long the end of the process waits for them: ages for a pipe that is read, not much for a supervisor."""
SIGNS_OF_LIFE = 2
"""Signs of life given in the time systemd's watchdog allows, as it advises: one may be late."""
CLIENT_TIMEOUT = 30.0
"""Seconds a client of ours gives each step of a request, as many as the server gives; long polls get more."""
SNAPSHOT_TIMEOUT = 3600.0
"""Seconds `zapq snapshot` waits for an answer: as long as the largest disk takes, and not for ever."""
FOLLOW_WAIT = 20.0
"""Seconds one request of `zapq pop --follow` waits: below the idle timeout of every proxy."""
WATCH_PAUSE = 2.0
"""Seconds between two tables of `zapq stats --watch`."""
TOP_PAUSE = 2.0
"""Seconds between two tables of `zapq top`: long enough for a rate to mean something, short enough to watch."""
PROGRESS_AFTER = 1.0
"""Seconds after which a terminal is shown how far a command is: what is done before needs no bar."""
COMPLETION_TIMEOUT = 1.0
"""Seconds a shell waits for the names of queues when its user presses tab."""
HEALTH_TIMEOUT = 5.0
"""Seconds `zapq health` waits: a server that answers later is not well."""
WEBHOOK_SECRET_VARIABLE = "ZAPQ_WEBHOOK_SECRET"  # noqa: S105 (the name of a place, not what is there)
"""Where the environment has the secrets that `zapq forward` signs with."""
WEBHOOK_SECRET_BYTES = (24, 64)
"""The least and the most bytes of such a secret, as Standard Webhooks has it."""
FORWARD_MAX_REST = 3600.0
"""Seconds a receiver of `zapq forward` may have it wait at most: a Retry-After beyond that is a mistake."""
FORWARD_ANSWER_BYTES = 64 * KIB
"""Bytes of its answer that are read, so that the connection can be used again: nothing is made of them."""
BENCH_LEAST_SIZE = 8
"""Bytes of a message of `zapq bench`: it carries the time it was sent, a double."""
BENCH_AHEAD = 4
"""Requests of each consumer by which producers of `zapq bench` may be ahead: none is idle, and no line forms."""
BENCH_DRAIN_SECONDS = 30.0
"""Seconds `zapq bench` goes on to take messages once it sends none: more are behind by far."""
BUSY_CLIENT = 0.9
"""The share of a core from which on `zapq bench` says that it was busy: one process cannot have more than one."""
CRON_PATIENCE = 240.0
"""Seconds for which `zapq cron` tries to send a message: less than the server knows its key."""
CRON_LOOK_SECONDS = 30.0
"""Seconds after which it looks at the clock on the wall again, which may have been set."""
CRON_SET_BACK = 3 * 3600.0
"""Seconds from which on `zapq cron` takes it for a correction that the clock is set back, as Vixie cron does."""
TEST_SERVER_PATIENCE = 45.0
"""Seconds a server that tests start may take to start, and to end: mostly one is enough."""
CLIENT_ATTEMPTS = 5
"""Times it sends a request before it gives up: what outlasts that is no hiccup, and its caller should know."""
NEXT_ADDRESS_SECONDS = 0.25
"""Seconds after which it tries the next address of a server's name beside the first, as RFC 8305 says."""
CLIENT_BACKOFF = 0.1
"""Seconds it pauses at most after the first failure, a blink; twice as long after each further one ..."""
CLIENT_MAX_BACKOFF = 10.0
"""... up to this: a server may be back for so long before its clients notice."""
MAX_ANSWER_HEAD_BYTES = 64 * KIB
"""The longest head of an answer: a message's headers have 8 KiB, and a proxy may add what it likes."""
IDLE_CONNECTIONS = 100
"""Connections it keeps for the next request: as many as tasks often share it."""
IDLE_CONNECTION_SECONDS = 60.0
"""How long it keeps one that nothing needs: most proxies close it by then."""
PRODUCER_LINGER = 0.005
"""Seconds for which a producer's message waits for others: little beside a commit, and many come in that time."""
PRODUCER_BATCH_BYTES = 1 * MIB
"""Bytes of a producer's batch, about: it holds two at most, and the server takes eight times as much."""
EXTENSIONS = 3
"""A lease is extended when this part of it, a third, is over: two thirds are left for trying again."""
SETTLE_LINGER = 0.005
"""Seconds for which settling one lease waits for others that can go with it: nothing beside a visibility."""
SETTLE_SECONDS = 5.0
"""How long settling a lease may hold up a cancellation: several round trips, and less than supervisors wait."""
POLL_END_SECONDS = 1.0
"""Seconds a consumer that ends waits for the answer to its long poll, which zapq gives at once."""
HANDLER_SECONDS = 3.0
"""Seconds of these that handlers in threads have to end, for nothing cancels them; the rest is for releasing."""
NO_QUEUE_PAUSE = 1.0
"""Seconds until a consumer asks again for a queue that was deleted while it waited."""
