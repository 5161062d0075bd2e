"""A loader behind the line protocol."""

import json
import os
import sys

target = json.loads(os.environ["BUTTRESS_WORLD"])["target"]
last_path = os.path.join(os.environ["BUTTRESS_DIR"], "last")
for line in sys.stdin:
    request = json.loads(line)
    answer = ["load"]
    if request["call"] == "load":
        last = json.load(open(last_path)) if os.path.exists(last_path) else {}
        now = json.load(open(request["args"]["feed"]))
        with open(target, "a") as file:
            for key in last.keys() | now.keys():
                if last.get(key) != now.get(key):
                    file.write(json.dumps([key, now.get(key)]) + "\n")
        json.dump(now, open(last_path, "w"))
        answer = None
    print(json.dumps({"ok": answer}), flush=True)
