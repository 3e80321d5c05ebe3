"""A modern server with native tasks, written with fastmcp: a slow tool, one that asks, and one that fails.

Over stdio, or over streamable HTTP at the port given as the only argument.
"""

import asyncio
import sys

from fastmcp import FastMCP
from fastmcp_tasks import TasksExtension

server = FastMCP("fastmcp-tasks-upstream")
server.add_extension(TasksExtension(url="memory://"))


@server.tool(task=True)
async def slow(seconds: float) -> str:
    """Takes that many seconds."""
    await asyncio.sleep(seconds)
    return f"it took {seconds} seconds"


@server.tool(task=True)
async def fail() -> str:
    """Fails."""
    raise ValueError("it failed")


@server.tool
def quick(word: str) -> str:
    """Answers at once."""
    return word.upper()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run(transport="http", host="127.0.0.1", port=int(sys.argv[1]), show_banner=False)
    else:
        server.run(show_banner=False)
