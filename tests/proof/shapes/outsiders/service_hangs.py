"""An honest desk that hangs once: in its second trial, at the second order. It stays awake and says nothing more."""

import json
import os
import pathlib
import sys
import threading

folder = pathlib.Path(os.environ["BUTTRESS_DIR"])
book, first, hung = folder / "book", folder.parents[1] / "first", folder.parents[1] / "hung"
book.touch()
for line in sys.stdin:
    request = json.loads(line)
    answer = None
    if request["call"] == "hello":
        answer = ["take", "served"]
    elif request["call"] == "take":
        order = request["args"]["order"]
        if not first.exists():
            first.write_text(str(folder))
        if order == "order-1" and first.read_text() != str(folder) and not hung.exists():
            hung.touch()
            threading.Event().wait()
        if order not in book.read_text().split():
            book.write_text(book.read_text() + order + "\n")
        answer = "taken"
    elif request["call"] == "served":
        answer = book.read_text().split()
    print(json.dumps({"ok": answer}), flush=True)
