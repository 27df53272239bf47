# SPDX-License-Identifier: Apache-2.0
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_python_example_finds_landmarks_of_the_chest_ct(tmp_path: Path) -> None:
    example = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    done = subprocess.run([sys.executable, "-c", example[1]], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^Carina: [+-]\d+ mm right, [+-]\d+ mm up, 90 % within \d+ mm$", done.stdout, re.MULTILINE)
