"""A loader behind the line protocol."""

import json
import os
import pathlib
import sys

target = json.loads(os.environ["BUTTRESS_WORLD"])["target"]
last_path = pathlib.Path(os.environ["BUTTRESS_DIR"], "last")
for line in sys.stdin:
    request = json.loads(line)
    answer = ["load"]
    if request["call"] == "load":
        last = json.loads(last_path.read_text()) if last_path.exists() else {}
        now = json.loads(pathlib.Path(request["args"]["feed"]).read_text())
        with open(target, "a") as file:
            for key in last.keys() | now.keys():
                if last.get(key) != now.get(key):
                    file.write(json.dumps([key, now.get(key)]) + "\n")
        last_path.write_text(json.dumps(now))
        answer = None
    print(json.dumps({"ok": answer}), flush=True)
