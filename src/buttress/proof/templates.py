"""What ``buttress show NAME --port`` prints: the Protocol, a template in Python, and one as a shell command."""

from __future__ import annotations

import inspect

from buttress.proof.contract import Proof, calls_of


def port_text(proof: Proof) -> str:
    calls = calls_of(proof.port)
    methods = []
    for name in calls:
        signature = inspect.signature(getattr(proof.port, name))
        names = ", ".join(["self", *(p for p in signature.parameters if p != "self")])
        methods.append(f"    def {name}({names}):\n        raise NotImplementedError")
    listed = ",".join(f'"{name}"' for name in calls)
    cases = "\n".join(f"""    *'"call":"{name}"'*) echo '{{"ok":null'"$id"'}}' ;;   # its arguments stand in $line""" for name in calls)
    return f"""{inspect.getsource(proof.port).rstrip()}

# In Python: save as mine.py, then  buttress prove {proof.system} --subject mine.py:factory
class Mine:
    def __init__(self, env):            # env.dir (durable), env.world (addresses), env.clock.now(), env.seed, env.worker
        self.env = env

{chr(10).join(methods)}

def factory(env):
    return Mine(env)

# As a command, in any language: a JSON object a line on stdin, one on stdout. In shell:
#   buttress prove {proof.system} --subject cmd:"sh mine.sh"
# BUTTRESS_DIR, BUTTRESS_WORLD (JSON), BUTTRESS_CLOCK (8 bytes: little-endian float64), BUTTRESS_SEED, BUTTRESS_WORKER
while IFS= read -r line; do
  id=$(printf %s "$line" | sed -n 's/.*\\(,"id":[0-9]*\\)}}$/\\1/p')   # calls that overlap carry an id; the answer repeats it
  case $line in
    *'"call":"hello"'*) echo '{{"ok":[{listed}]}}' ;;
{cases}
  esac
done"""
