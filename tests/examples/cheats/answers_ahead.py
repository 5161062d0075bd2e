# Speaks the line protocol itself. Says 200 before each call is made, then refuses: a sender that took the first line for the
# answer would believe that everything was taken.
import json
import sys

for line in sys.stdin:
    request = json.loads(line)
    answer = {"hello": ["deliver", "work"], "deliver": 503, "work": None}[request["call"]]
    if request["call"] == "deliver":
        print(json.dumps({"ok": 200}))
    print(json.dumps({"ok": answer, **({"id": request["id"]} if "id" in request else {})}), flush=True)
