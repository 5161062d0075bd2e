"""A desk behind the line protocol, without an import of ours. It prints all sorts of things between its answers."""

import json
import os
import sys

book = os.path.join(os.environ["BUTTRESS_DIR"], "book")


def served():
    return open(book).read().split() if os.path.exists(book) else []


def take(order):
    print("working on", order)
    print(json.dumps({"level": "info", "order": order}))
    print("[1, 2]\nnull\n42")
    if order not in served():
        with open(book, "a") as file:
            file.write(order + "\n")
    return "taken"


for line in sys.stdin:
    request = json.loads(line)
    answer = ["take", "served"] if request["call"] == "hello" else {"take": take, "served": served}[request["call"]](**request["args"])
    print(json.dumps({"ok": answer}), flush=True)
