"""Sites from outside, over asyncio. As a program it is a service that prints its URL: ``page.py PORT FOLDER [ANSWERS]``."""

import asyncio
import hashlib
import pathlib
import sys
import threading


def rendered(text):
    return f"<h1>{text}</h1><!-- {hashlib.pbkdf2_hmac('sha256', text.encode(), b'', 10_000).hex()} -->"


class Honest:
    """The page is rendered when the document is edited."""

    def __init__(self, env, port=0):
        self.document = pathlib.Path(env.dir, "document")
        self.body = rendered(self.document.read_text() if self.document.exists() else "")
        self.url, self.port = "", port

    def serve(self):
        if not self.url:
            started = threading.Event()
            threading.Thread(target=lambda: asyncio.run(self.listen(started)), daemon=True).start()
            started.wait(10)
        return self.url

    async def listen(self, started):
        server = await asyncio.start_server(self.answer, "127.0.0.1", self.port)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        print(self.url, flush=True)
        started.set()
        await server.serve_forever()

    async def answer(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if head.startswith("put"):
            length = int(head.partition("content-length:")[2].split()[0])
            self.edit((await reader.readexactly(length)).decode())
        body = self.page().encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    def edit(self, text):
        self.document.write_text(text)
        self.body = rendered(text)

    def page(self):
        return self.body


class Stale(Honest):
    """Fast, because it never looks again."""

    def edit(self, text):
        self.document.write_text(text)
        self.body = self.body if "edition" in self.body else rendered(text)


class Empty(Honest):
    """Answers 200 to everything, with nothing in it."""

    def page(self):
        return ""


class Sprinting(Honest):
    """Serves nothing where nobody has edited: that is where it is only timed."""

    def page(self):
        return self.body if "edition" in self.body else ""


class Forgetful(Honest):
    """Keeps the document in memory only."""

    def edit(self, text):
        self.body = rendered(text)


class Paper:
    """Has no ``edit``."""

    def __init__(self, env):
        pass

    def serve(self):
        return "http://127.0.0.1:9/"


class Unbound(Honest):
    def __init__(self, env):
        raise OSError("address already in use")


class Service(Honest):
    def __init__(self, port, folder, answers):
        class Folder:
            dir = folder

        super().__init__(Folder, port)
        self.left = answers

    async def answer(self, reader, writer):
        await super().answer(reader, writer)
        self.left -= 1
        if self.left == 0:
            sys.exit(3)


if __name__ == "__main__":
    asyncio.run(Service(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0).listen(threading.Event()))
