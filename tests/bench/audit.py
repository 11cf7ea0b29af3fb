"""What the audit trail costs a receiver: images a second without one, with its collector up, and with it down.

    python tests/bench/audit.py [--rounds 5] [--images 200]

The worst case for the trail: small images, each on an association and of a study of its own, so that each makes a
message. The three receivers take turns within each round; printed are medians and ratios to the one without a trail.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.collectors import Collector
from support.receivers import ReceiverProcess
from support.senders import an_image, store_file


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=200, help="in each run")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        up, down = stack.enter_context(Collector("tcp")), Collector("tcp")
        receivers = {
            "no trail": stack.enter_context(ReceiverProcess(folder / "off")),
            "collector up": stack.enter_context(ReceiverProcess(folder / "up", f'[audit]\nurl = "{up.url}"\n')),
            "collector down": stack.enter_context(ReceiverProcess(folder / "down", f'[audit]\nurl = "{down.url}"\n')),
        }
        speeds: dict[str, list[float]] = {name: [] for name in receivers}
        number = 0
        for turn in range(options.rounds + 1):  # the first warms up
            for name, receiver in receivers.items():
                parts = []
                for _ in range(options.images):
                    number += 1
                    parts.append(an_image(f"1.2.3.{number}", 64 * 64, _0020000D=b"1.2.4.%d" % number))
                start = time.perf_counter()
                for part in parts:
                    assert store_file(receiver.port, part).status == 0
                if turn:
                    speeds[name].append(options.images / (time.perf_counter() - start))
    base = statistics.median(speeds["no trail"])
    for name, found in speeds.items():
        median = statistics.median(found)
        print(f"{name:15} {median:7.1f} images/s ({min(found):.1f}-{max(found):.1f}), {median / base:.2f} x no trail")


if __name__ == "__main__":
    main()
