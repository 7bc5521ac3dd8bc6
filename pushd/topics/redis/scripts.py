"""The Lua scripts that pushd runs in Redis, each of which takes effect completely or not at all.

A topic is stored in two keys, which share a hash tag: ``pushd:{topic}:topic`` is a hash of its
epoch, its last offset and its generation; ``pushd:{topic}:history`` is a stream whose entries have
the id ``offset-milliseconds`` and the publication, in a field of its kind: ``t`` for text, ``b``
for bytes, ``j`` for JSON; or a capital letter if there is a line before the data: the name of its
event, its metadata as JSON, or the one behind the other. What was published with an idempotency key
is in ``pushd:{topic}:key:SHA-256``. Only topics, whose characters cannot be mistaken for the rest
of a key, are written into keys as they are given. ``pushd:server`` is a hash about the server that
wrote last, and the generation. A script writes to it first, before any topic, with commands that a
full Redis denies: so it denies the first write or none. ``pushd`` is the prefix, unless the address
has another.

Publications of all topics are numbered: ``sequence`` in ``pushd:server`` is the last number. The
second field of an entry has its number and that of the topic's previous publication, as in ``9:7``.
The topic's hash has the last number as ``sequence``, and as ``numbered`` the offset that has it;
for a topic without publications, the number from which on all are known. If a node of an older
version, which numbers nothing, publishes, then ``numbered`` is not the last offset, and no position
is proven until the next publication with a number.

How much is kept of a topic, and how long, can differ from topic to topic: scripts are told it with
each. A topic that retains its newest publication does not expire, nor does its history.

The generation: a Redis that was restarted, or took the data of another server, may have forgotten
publications that subscribers have received, and would give their offsets to new ones. So every
script asks Redis for its replication id. That is a new one after each restart, when a replica
becomes a master, and when the first replica comes; in the second case, Redis also has the former id
and the offset up to which it has kept that. The generation is kept only if it is known that nothing
was forgotten:

* The replication id is that of the last write; or it is another one of the same run, which has no
  former id, so that it was never a replica.
* The server was demoted and promoted again, and has followed no other in between: it is the run
  that wrote last, its former id is that of the last write, and it has kept all up to an offset
  beyond that.
* It was restarted, and can be trusted to have everything (see ``RedisSession.trusted``).

It is not kept if this node has last seen a generation that this server knows nothing of: then
another server was the master meanwhile, and this one lacks what was published there. When the
generation changes, every topic of an older one gets a new epoch when it is next used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha1, sha256
from typing import Any

from pushd.topics.publication import (
    Id,
    Publication,
    Replay,
    check_event,
    check_metadata,
    check_topic,
)
from pushd.topics.redis.address import PREFIX

#: How much longer than its publications a topic is kept, in seconds. Nodes where it has subscribers
#: renew that.
HOLD = 600

_OPENING = """
local run, trusted, seen, fresh = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
-- How long the topic at hand keeps publications, and whether it retains the newest.
local ttl, retain = tonumber(ARGV[5]), false
local hold = ARGV[6]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function whole(number)
    return string.format('%.0f', number)
end

-- Returns the generation, or nil for a new one, and what has to be written if it changes.
local function find_generation()
    local info = redis.call('INFO', 'replication')
    local id = string.match(info, 'master_replid:(%w+)') or run
    local former = string.match(info, 'master_replid2:(%w+)')
    local kept = tonumber(string.match(info, 'second_repl_offset:(%-?%d+)') or -1)
    local now_at = string.match(info, 'master_repl_offset:(%d+)') or '0'
    local known = redis.call('HMGET', KEYS[1], 'run', 'replication', 'offset', 'generation', 'past')
    local generation, past = known[4], known[5] or ''
    local stayed = known[1] == run and kept == -1
    local returned = known[1] == run and known[2] == former and tonumber(known[3]) < kept
    if not (known[2] == id or stayed or returned or (trusted == '1' and kept == -1)) then
        generation = nil
    end
    if seen ~= '' and seen ~= known[4] and not string.find(past, seen, 1, true) then
        generation = nil
    end
    local record = nil
    if not generation or known[2] ~= id then
        if not generation then
            -- What is known to precede the new one; other nodes will come from there, too.
            past = string.sub(past .. ' ' .. (known[4] or '') .. ' ' .. seen, -2000)
        end
        record = {'run', run, 'replication', id, 'offset', now_at, 'past', past}
    end
    return generation, record
end

local function read_generation()
    local generation, record = find_generation()
    generation = generation or fresh
    if record then
        redis.call('HSET', KEYS[1], 'generation', generation, unpack(record))
    end
    return generation
end

local function last_sequence()
    return tonumber(redis.call('HMGET', KEYS[1], 'sequence')[1] or 0)
end

-- Returns the generation, epoch, last offset, last sequence, and the offset that has that.
local function read_topic(topic)
    return redis.call('HMGET', topic, 'generation', 'epoch', 'offset', 'sequence', 'numbered')
end

-- Returns the epoch, the last offset, and the last sequence or nil if that publication has none.
-- Of a new topic, all publications after the sequence given are known.
local function open(topic, history, generation, sequence)
    local known = read_topic(topic)
    if known[1] == generation then
        return known[2], tonumber(known[3]), known[5] == known[3] and tonumber(known[4]) or nil
    end
    redis.call('HSET', topic, 'epoch', fresh, 'offset', 0, 'generation', generation,
        'sequence', whole(sequence), 'numbered', 0)
    redis.call('DEL', history)
    return fresh, 0, sequence
end

-- Offsets have no gap and times never decrease: binary search finds what is too old.
local function is_old(history, offset)
    local entry = redis.call('XRANGE', history, whole(offset), whole(offset), 'COUNT', 1)[1]
    return entry and tonumber(string.match(entry[1], '%-(%d+)')) + ttl <= now
end

local function trim(history, last)
    local oldest = last - redis.call('XLEN', history) + 1
    local young = retain and last or last + 1
    if oldest >= young or not is_old(history, oldest) then
        return
    end
    local old = oldest
    while young - old > 1 do
        local middle = math.floor((old + young) / 2)
        if is_old(history, middle) then
            old = middle
        else
            young = middle
        end
    end
    redis.call('XTRIM', history, 'MINID', '=', whole(young))
end

-- Keeps a topic that is used: for a while, or without a limit if it has something to retain.
local function keep(topic, history)
    if retain and redis.call('XLEN', history) > 0 then
        redis.call('PERSIST', topic)
        redis.call('PERSIST', history)
        return
    end
    redis.call('PEXPIRE', topic, whole(ttl + hold))
    -- It may have been retained by a rule that has changed.
    redis.call('PEXPIRE', history, whole(ttl))
end
"""

_PUBLISHING = """
local generation, sequence = nil, nil

-- Publishes, and returns the id. The first call of a script numbers as many as it may publish.
local function publish(most, topic, history, channel, kind, data, size, time_to_live, retained)
    if not generation then
        generation = read_generation()
        sequence = redis.call('HINCRBY', KEYS[1], 'sequence', most) - most
    end
    sequence = sequence + 1
    local epoch, last, previous = open(topic, history, generation, sequence - 1)
    local offset = last + 1
    redis.call('HSET', topic, 'offset', whole(offset),
        'sequence', whole(sequence), 'numbered', whole(offset))
    local id = epoch .. ':' .. whole(offset)
    ttl, size = tonumber(time_to_live), tonumber(size)
    -- What was the newest until now need not be retained.
    retain = false
    redis.call('PEXPIRE', topic, whole(ttl + hold))
    if size > 0 then
        trim(history, offset - 1)
        local place = whole(offset) .. '-' .. whole(now)
        -- After one that has no number, nothing is proven before this one.
        local numbers = whole(sequence) .. ':' .. whole(previous or sequence)
        redis.call('XADD', history, 'MAXLEN', '=', size, place, kind, data, 's', numbers)
        redis.call('PEXPIRE', history, whole(ttl))
    else
        redis.call('DEL', history) -- If it was kept by a rule that has changed.
    end
    if retained == '1' then
        redis.call('PERSIST', topic)
        redis.call('PERSIST', history)
    end
    redis.call('PUBLISH', channel, id .. ' ' .. whole(sequence) .. ' ' .. kind .. data)
    return id
end
"""

_PUBLISH = """
local key_ttl = ARGV[7]
local count = (#KEYS - 1) / 3
local ids = {}
for number = 1, count do
    local topic, history, key = KEYS[3 * number - 1], KEYS[3 * number], KEYS[3 * number + 1]
    local id = key ~= topic and redis.call('GET', key)
    if not id then
        id = publish(count, topic, history, unpack(ARGV, 2 + 6 * number, 7 + 6 * number))
        if key ~= topic then
            redis.call('SET', key, id, 'EX', key_ttl)
        end
    end
    ids[number] = id
end
return ids
"""

#: A function for scripts about schedules.
FORGETTING = """
local function whole(number)
    return string.format('%.0f', number)
end

-- Removes a schedule, of which the size of its data, its rate and its node are given.
local function forget(schedules, totals, record, due, id, size, rate)
    redis.call('DEL', record)
    redis.call('ZREM', schedules, id)
    redis.call('ZREM', due, id)
    if redis.call('EXISTS', schedules) == 0 then
        redis.call('DEL', totals)
        return
    end
    redis.call('HINCRBY', totals, 'bytes', whole(0 - (size or 0)))
    redis.call('HINCRBY', totals, 'rate', whole(0 - (rate or 0)))
end
"""

_PUBLISH_DUE = """
local grace, node, due_prefix = tonumber(ARGV[7]), ARGV[8], ARGV[9]
local exact = time[1] * 1000 + time[2] / 1000
local most = (#KEYS - 3) / 3
local answers = {}
for number = 1, most do
    local record, topic, history = unpack(KEYS, 3 * number + 1, 3 * number + 3)
    local id = ARGV[5 * number + 5]
    local known = redis.call('HMGET', record,
        'node', 'count', 'done', 'first', 'every', 'kind', 'data', 'size', 'rate')
    local made, old, late, left, owned = 0, 0, 0, -1, 0
    if known[2] then
        local count, done = tonumber(known[2]), tonumber(known[3])
        local first, every = tonumber(known[4]), tonumber(known[5])
        late = exact - first - done * every
        if late > grace then
            old = count - done
            if every > 0 then
                old = math.min(old, math.ceil((late - grace) / every))
            end
            late = late - old * every
        end
        -- A microsecond is what the sum of two numbers may be wrong by.
        if done + old < count and late >= -0.001 then
            publish(most, topic, history, ARGV[5 * number + 6], known[6], known[7],
                unpack(ARGV, 5 * number + 7, 5 * number + 9))
            made = 1
        end
        done = done + old + made
        local due = due_prefix .. known[1]
        if done == count then
            forget(KEYS[2], KEYS[3], record, due, id, known[8], known[9])
        else
            local next = first + done * every
            left, owned = math.max(0, next - exact), known[1] == node and 1 or 0
            if old + made > 0 then
                redis.call('HSET', record, 'done', whole(done))
                redis.call('ZADD', due, string.format('%.17g', next), id)
            end
        end
    else
        -- It was cancelled, or removed by another program.
        forget(KEYS[2], KEYS[3], record, due_prefix .. node, id)
    end
    answers[number] = {made, old, owned, string.format('%.3f', left), string.format('%.3f', late),
        known[2] or 0}
end
return answers
"""

_REPLAY = """
local after_epoch, after, room = ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
retain = ARGV[10] == '1'
local generation = read_generation()
local total = last_sequence()
local epoch, last, newest = open(KEYS[2], KEYS[3], generation, total)
newest = whole(newest or total)
trim(KEYS[3], last)
keep(KEYS[2], KEYS[3])

local function read_entry(entry)
    local sequence = string.match(entry[2][4] or '', '^%d+') or '0'
    return {entry[1], entry[2][1], entry[2][2], sequence}
end

local kept = redis.call('XLEN', KEYS[3])
if after_epoch ~= epoch or after > last or last - after > kept then
    local entry = retain and redis.call('XRANGE', KEYS[3], whole(last), '+', 'COUNT', 1)[1]
    if entry then
        return {epoch, whole(last - 1), 0, whole(last), {read_entry(entry)}, newest}
    end
    return {epoch, whole(last), 0, whole(last), {}, newest}
end
local chosen, count, offset = {}, 1, after
while room > 0 and offset < last do
    local from = whole(offset + 1)
    local entries = redis.call('XRANGE', KEYS[3], from, '+', 'COUNT', count)
    if #entries == 0 then
        break
    end
    for _, entry in ipairs(entries) do
        offset = offset + 1
        room = room - #entry[2][2] - 100
        chosen[#chosen + 1] = read_entry(entry)
    end
    -- As many more as fit, if they are as long on average as those so far.
    local length = (tonumber(ARGV[9]) - room) / #chosen
    count = math.max(1, math.min(1000, math.floor(room / length)))
end
return {epoch, whole(after), 1, whole(last), chosen, newest}
"""

_LOCATE = """
local generation = read_generation()
local total = last_sequence()

-- Returns the sequence of an entry, and that of the publication before it; nil if it has none.
local function read_sequence(history, offset)
    local entry = redis.call('XRANGE', history, whole(offset), whole(offset), 'COUNT', 1)[1]
    local sequence, previous = string.match(entry and entry[2][4] or '', '^(%d+):(%d+)$')
    return tonumber(sequence), tonumber(previous)
end

-- Returns the last offset up to a sequence, by binary search; nil if it is not certain.
local function find(history, last, sequence)
    local first, later = last - redis.call('XLEN', history) + 1, last
    while first < later do
        local middle = math.floor((first + later) / 2)
        local found = read_sequence(history, middle)
        if not found then
            return nil
        elseif found > sequence then
            later = middle
        else
            first = middle + 1
        end
    end
    local found, previous = read_sequence(history, later)
    return found and found > sequence and previous <= sequence and later - 1 or nil
end

local ids = {}
for number = 1, (#KEYS - 1) / 2 do
    local topic, history = KEYS[2 * number], KEYS[2 * number + 1]
    local sequence = tonumber(ARGV[5 + 3 * number])
    ttl, retain = tonumber(ARGV[6 + 3 * number]), ARGV[7 + 3 * number] == '1'
    local known = read_topic(topic)
    local offset = nil
    if ARGV[7] == generation and known[1] == generation and sequence <= total
            and known[5] == known[3] then
        local last = tonumber(known[3])
        keep(topic, history)
        if sequence >= tonumber(known[4]) then
            offset = last
        else
            trim(history, last)
            offset = find(history, last, sequence)
        end
    end
    ids[number] = offset and known[2] .. ':' .. whole(offset) or ''
end
return ids
"""

_DESCRIBE = """
local known = redis.call('HMGET', KEYS[2], 'epoch', 'offset', 'generation')
if not known[1] or known[3] ~= find_generation() then
    return false
end
retain = ARGV[7] == '1'
trim(KEYS[3], tonumber(known[2]))
return {known[1] .. ':' .. known[2], redis.call('XLEN', KEYS[3])}
"""

_TOUCH = """
local generation = read_generation()
local ids = {}
for number = 2, #KEYS do
    local known = redis.call('HMGET', KEYS[number], 'epoch', 'offset', 'generation')
    ids[number - 1] = known[3] == generation and known[1] .. ':' .. known[2] or ''
    -- One that retains something must not expire.
    if ARGV[4 + 2 * number] ~= '1' or redis.call('PTTL', KEYS[number]) ~= -1 then
        redis.call('PEXPIRE', KEYS[number], whole(ARGV[3 + 2 * number] + hold))
    end
end
return ids
"""

_SETTLE = """
return read_generation()
"""


@dataclass(frozen=True)
class Script:
    """A script and its SHA-1, by which Redis knows it once it is loaded."""

    source: str

    @cached_property
    def sha1(self) -> str:
        """The SHA-1 of the source, for EVALSHA."""
        return sha1(self.source.encode(), usedforsecurity=False).hexdigest()


#: Publishes one or more publications. Returns their ids.
PUBLISH = Script(_OPENING + _PUBLISHING + _PUBLISH)
#: Publishes what is due of schedules. Returns for each how many publications it has made, and how
#: many it has dropped; 1 if it belongs to this node; the milliseconds until its next publication,
#: or -1 if there is none; how many milliseconds late the one that was made is; and the count.
PUBLISH_DUE = Script(_OPENING + _PUBLISHING + FORGETTING + _PUBLISH_DUE)
#: Reads the publications after an id. Creates the topic if it does not exist.
REPLAY = Script(_OPENING + _REPLAY)
#: Finds the ids that topics had at a sequence of a generation; "" if that is not certain.
LOCATE = Script(_OPENING + _LOCATE)
#: Returns a topic's last id and number of publications.
DESCRIBE = Script(_OPENING + _DESCRIBE)
#: Renews the expiry of topics. Returns their last ids.
TOUCH = Script(_OPENING + _TOUCH)
#: Returns the generation, which is a new one if this server may have forgotten something.
SETTLE = Script(_OPENING + _SETTLE)

ALL = (PUBLISH, PUBLISH_DUE, REPLAY, LOCATE, DESCRIBE, TOUCH, SETTLE)

#: The type of the values of topics' keys, for SCAN.
TOPIC_TYPE = "hash"


@dataclass(frozen=True)
class RedisNames:
    """The names of keys and channels of one deployment.

    :param prefix: what all of them begin with; without a colon, so that no two deployments share
        a name.
    :param db: the number of the database.
    """

    prefix: str = PREFIX
    db: int = 0

    @cached_property
    def server(self) -> str:
        """The key about the server that wrote last, with the generation of all topics."""
        return f"{self.prefix}:server"

    @property
    def topic_pattern(self) -> str:
        """The pattern of the keys of topics, for SCAN."""
        return f"{self.prefix}:{{*}}:topic"

    def topic_keys(self, topic: str) -> tuple[str, str]:
        """Return the two keys of a topic: its hash and its history."""
        return f"{self.prefix}:{{{topic}}}:topic", f"{self.prefix}:{{{topic}}}:history"

    @property
    def nodes(self) -> str:
        """The key of the sorted set of nodes, each with the time until which it is alive."""
        return f"{self.prefix}:nodes"

    def presence_keys(self, topic: str, node: str) -> tuple[str, str]:
        """Return the keys of a topic's presence: of all nodes, and of one."""
        present = f"{self.prefix}:{{{topic}}}:present"
        return present, f"{present}:{node}"

    def presence_channel(self, topic: str) -> bytes:
        """Return the channel of a topic's presence, whose name is that of no topic's channel."""
        return f"{self.prefix}:{self.db}@{topic}".encode()

    @property
    def revocations(self) -> str:
        """The key of the stream of revocations."""
        return f"{self.prefix}:revocations"

    @property
    def revocation_channel(self) -> bytes:
        """Return the channel of revocations, whose name is that of no topic's channel."""
        return f"{self.prefix}:{self.db}!revocations".encode()

    def relay_channel(self, node: str) -> bytes:
        """Return the channel of messages for a node, whose name is that of no topic's channel."""
        return f"{self.prefix}:{self.db}!node:{node}".encode()

    @property
    def call_channel(self) -> bytes:
        """Return the channel of calls of other nodes, whose name is that of no topic's channel."""
        return f"{self.prefix}:{self.db}!calls".encode()

    def answer_channel(self, node: str) -> bytes:
        """Return the channel of the answers to a node, whose name is that of no topic's channel."""
        return f"{self.prefix}:{self.db}!answers:{node}".encode()

    @property
    def schedules(self) -> str:
        """The key of the sorted set of schedules, each with the time at which it was made."""
        return f"{self.prefix}:schedules"

    @property
    def schedule_totals(self) -> str:
        """The key of what all schedules have together: bytes of data, and their rate."""
        return f"{self.prefix}:schedules:totals"

    @property
    def schedule_nodes(self) -> str:
        """The key of the sorted set of nodes that have schedules, each with when it is dead."""
        return f"{self.prefix}:schedules:nodes"

    @property
    def due_prefix(self) -> str:
        """What a node's name follows in the key of its schedules, sorted by their next time."""
        return f"{self.prefix}:schedules:due:"

    @property
    def schedule_prefix(self) -> str:
        """What the id of a schedule follows in the key of its hash."""
        return f"{self.prefix}:schedule:"

    def idempotency_key(self, topic: str, key: str) -> str:
        """Return the key that stores the id published with an idempotency key."""
        return f"{self.prefix}:{{{topic}}}:key:{sha256(key.encode()).hexdigest()}"

    def read_topic(self, key: bytes) -> str:
        """Return the topic that a key belongs to. Raises ValueError if it is another program's."""
        return check_topic(key[len(self.prefix) + 2 : -len("}:topic")].decode("latin-1"))

    def channel(self, topic: str) -> bytes:
        """Return the channel of a topic. It names the database, as all databases share channels."""
        return f"{self.prefix}:{self.db}:{topic}".encode()


def encode(
    data: str | bytes,
    event: str | None = None,
    is_json: bool = False,
    metadata: str | None = None,
) -> tuple[str, bytes]:
    """Return the kind of a publication, as one letter, and as bytes its data with the rest."""
    if isinstance(data, str):
        kind, encoded = "j" if is_json else "t", data.encode()
    else:
        kind, encoded = "b", data
    if event is None and metadata is None:
        return kind, encoded
    return kind.upper(), f"{event or ''}{metadata or ''}\n".encode() + encoded


def decode(kind: bytes, data: bytes) -> tuple[str | bytes, str | None, bool, str | None]:
    """Return the data of a publication, its event, whether it is JSON, and its metadata.

    Raises ValueError if it is malformed.
    """
    if not isinstance(data, bytes):
        raise ValueError("data must be bytes")
    event = metadata = None
    if kind.isupper():
        line, data = data.split(b"\n", 1)
        name, brace, rest = line.decode().partition("{")
        # The name is checked: it becomes a line in event streams.
        event = check_event(name) if name or not brace else None
        metadata, kind = check_metadata(f"{{{rest}") if brace else None, kind.lower()
    if kind == b"b":
        return data, event, False, metadata
    if kind not in (b"t", b"j"):
        raise ValueError("kind must be t, b or j")
    return data.decode(), event, kind == b"j", metadata


def read_message(topic: str, message: bytes) -> Publication:
    """Decode a message of a topic's channel. Raises ValueError if it is malformed."""
    id, _, rest = message.partition(b" ")
    sequence = b"0"
    if rest[:1].isdigit():
        sequence, _, rest = rest.partition(b" ")
    return _make_publication(topic, rest[:1], rest[1:], read_id(id), int(sequence))


def read_id(text: bytes) -> Id:
    """Decode an id that a script returned. Raises ValueError if it is malformed."""
    return Id.parse(text.decode("latin-1"))


def read_replay(topic: str, answer: Sequence[Any]) -> Replay:
    """Decode the answer of ``REPLAY``. If other programs left a gap, nothing is recovered.

    Raises ValueError if it is malformed.
    """
    # The epoch is checked: it becomes part of a line in event streams.
    id, last = (read_id(b"%b:%b" % (answer[0], answer[place])) for place in (1, 3))
    epoch, offset = id.epoch, id.offset
    newest = int(answer[5])
    publications = []
    for place, kind, data, sequence in answer[4]:
        offset += 1
        if int(place.partition(b"-")[0]) != offset:
            return Replay(last, False, (), last, newest)
        made = _make_publication(topic, kind, data, Id(epoch, offset), int(sequence))
        publications.append(made)
    if not publications and id.offset < last.offset:
        return Replay(last, False, (), last, newest)
    return Replay(id, answer[2] == 1, tuple(publications), last, newest)


def _make_publication(topic: str, kind: bytes, data: bytes, id: Id, sequence: int) -> Publication:
    """Decode a publication."""
    decoded, event, is_json, metadata = decode(kind, data)
    return Publication(topic, decoded, id, event, is_json, sequence, 0, metadata)
