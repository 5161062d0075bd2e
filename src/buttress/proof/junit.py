"""A result as JUnit XML: a claim is a testcase; fail is a failure, unknown an error, deferred and not run are skipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml


def write_junit(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    root = Xml.Element("testsuites")
    for result in results:
        claims = result["claims"]
        count = {v: sum(1 for c in claims if c["verdict"] == v) for v in ("fail", "unknown")}
        suite = Xml.SubElement(root, "testsuite", {
            "name": f"buttress prove {result['system']}", "tests": str(len(claims)), "failures": str(count["fail"]),
            "errors": str(count["unknown"]), "skipped": str(sum(1 for c in claims if c["verdict"] in ("deferred", "not run"))),
            "time": f"{result['wall_s']:.3f}",
        })
        properties = Xml.SubElement(suite, "properties")
        for name in ("as", "judged", "scale", "seed"):
            if result.get(name, "") != "":
                Xml.SubElement(properties, "property", {"name": name, "value": _printable(str(result[name]))})
        for claim in claims:
            case = Xml.SubElement(suite, "testcase", {"classname": f"{result['system']}.{claim['subject']}", "name": claim["name"]})
            text = _printable(f"{claim['value']} {claim['unit']} against {claim['bar']}: {claim['why']}")
            if claim["verdict"] == "fail":
                Xml.SubElement(case, "failure", {"message": text})
            elif claim["verdict"] == "unknown":
                Xml.SubElement(case, "error", {"message": text})
            elif claim["verdict"] in ("deferred", "not run"):
                Xml.SubElement(case, "skipped", {"message": f"buttress prove {result['system']} --scale full"})
    Xml.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _printable(text: str) -> str:
    """Without the characters that XML 1.0 forbids (section 2.2)."""
    return "".join(c if c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff" else "\ufffd" for c in text)
