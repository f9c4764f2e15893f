"""OpenVINO's reports of its use, which graysam leaves out: what is segmented here is nobody's business.

`import openvino`, its converter and NNCF send events to a web service by the package openvino-telemetry, which comes
with OpenVINO, and keep a client's id in the user's home folder. Consent is taken for given unless the user has run
`opt_in_out --opt_out`. All of them go on without that package, so it is not there for a process in which graysam
imports OpenVINO first. Nothing is written anywhere.
"""

import sys
from typing import Any

REPORTER = "openvino_telemetry"


def switch_off() -> None:
    """Keep OpenVINO and NNCF from reporting; to be called before OpenVINO is imported.

    Where another part of the program imported it before, that import has been reported, and nothing after it will be.
    """
    reporter: Any = sys.modules.setdefault(REPORTER, None)  # type: ignore[arg-type]  # None: "not there"
    if reporter is not None:
        reporter.main.TelemetrySender.send = lambda *arguments: None  # all that is sent goes this way
