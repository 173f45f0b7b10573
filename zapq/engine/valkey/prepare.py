"""What a server of the engine must be, and the library it must have: looked at on each connection."""

from __future__ import annotations

from zapq.engine.valkey import library
from zapq.engine.valkey.call import epoch_of
from zapq.engine.valkey.cluster import replication
from zapq.engine.valkey.connection import Connection, ConnectionLost
from zapq.engine.valkey.resp import ReplyError


async def prepare(connection: Connection) -> bytes:
    """Load the library if it is not there or older, and return what tells the runs of the server's data apart.

    Raises `ConnectionLost` for a server that cannot be used, such as a replica.
    """
    about = await replication(connection)
    if about.get("role") != "master":
        raise ConnectionLost("it is a replica")
    await _load_library(connection)
    try:
        return epoch_of(about["master_replid"].encode())
    except (LookupError, ValueError) as error:
        raise ConnectionLost("INFO does not tell its master_replid") from error


async def _load_library(connection: Connection) -> None:
    """Load the library, unless the server has it in this version or a newer one. Raises `ConnectionLost`."""
    version = await connection.call("FCALL", f"{library.NAME}_version", 0)
    if isinstance(version, int) and version >= library.VERSION:
        return
    if isinstance(version, ReplyError) and "Function not found" not in str(version):
        raise ConnectionLost(f"the library cannot be used: {version}")
    loaded = await connection.call("FUNCTION", "LOAD", "REPLACE", library.TEXT)
    if isinstance(loaded, ReplyError):
        raise ConnectionLost(f"the library cannot be loaded: {loaded}")
