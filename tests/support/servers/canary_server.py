"""Says all canaries of a file, in eight forms, in every way in which a server can say something."""

import asyncio
import base64
import json
import os
import sys
from pathlib import Path
from urllib.parse import quote

from fastmcp import Context, FastMCP
from pydantic import BaseModel, Field

CANARIES = list(json.loads(Path(sys.argv[1]).read_text()).values())


def forms(secret: str) -> dict[str, str]:
    data = secret.encode()
    return {
        "raw": secret,
        "json": json.dumps({"password": secret}),
        "url": quote(secret, safe=""),
        "base64": base64.b64encode(data).decode(),
        "base64url": base64.urlsafe_b64encode(data).decode().rstrip("="),
        "within": base64.b64encode(b"user:" + data + b"@host").decode(),
        "hex": data.hex(),
        "lines": "\n".join(f"| {line}" for line in secret.splitlines()),
    }


def everything(more: str = "") -> str:
    known = [*CANARIES, *([more] if more else [])]
    return "\n".join(f"{name}: {text}" for each in known for name, text in forms(each).items())


server = FastMCP("canaries")


@server.tool(annotations={"readOnlyHint": True})
def say(password: str = "") -> dict:
    return {"text": everything(password), "all": [forms(each) for each in CANARIES]}


say_description = f"Says {CANARIES[0]} and {CANARIES[-1]}."


@server.tool(annotations={"readOnlyHint": True}, description=say_description)
def look(at: str = "") -> str:
    return everything()


@server.tool(annotations={"readOnlyHint": True})
def fail(password: str = "") -> str:
    raise RuntimeError(f"cannot log in with {password}: {everything(password)}")


@server.tool(annotations={"readOnlyHint": True})
async def noise(context: Context) -> str:
    for number, each in enumerate(CANARIES):
        for text in forms(each).values():
            await context.report_progress(number, len(CANARIES), text)
            await context.warning(text)
    print(everything(), file=sys.stderr, flush=True)
    await asyncio.sleep(0.5)  # long enough to be seen in the list of processes
    return "x" * 1990 + CANARIES[0]  # cut in the middle of it by what tells of it


@server.tool(annotations={"readOnlyHint": True})
def environment() -> dict:
    return {"names": sorted(os.environ), "mine": os.environ.get("TOOL_CODE", "")[:6]}


@server.tool(annotations={"readOnlyHint": True})
def end() -> str:
    print(everything(), file=sys.stderr, flush=True)
    print("NEEDED_ADDRESS is not set;", CANARIES[0], file=sys.stderr, flush=True)
    os._exit(3)


class Login(BaseModel):
    user: str
    password: str = Field(json_schema_extra={"format": "password"})


@server.tool(annotations={"readOnlyHint": True})
async def login(context: Context) -> dict:
    answer = await context.elicit("Log in, please.", Login)
    if answer.action != "accept":
        return {"action": answer.action}
    typed = answer.data.password
    return {"length": len(typed), "said": list(forms(typed).values()), "user": answer.data.user}


if __name__ == "__main__":
    server.run(show_banner=False)
