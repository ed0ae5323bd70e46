#!/usr/bin/python3
"""Makes docs/guides/first-run.png: types real commands in a real terminal and draws what it shows.

usage: first-run-picture.py CSB [OUTPUT.png]     needs Debian's tmux, python3-pil, fonts-dejavu-core
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

from PIL import Image, ImageDraw, ImageFont

COLUMNS, ROWS, SIZE = 100, 44, 15
COMMANDS = [
    "csb run -- sh -c 'id; echo $(ls /); ls /home; cat /etc/shadow'",
    "csb run --lang python -c 'print(6 * 7)'",
    "csb run --memory 64m -- python3 -c 'b\"x\" * 10**9'",
    "csb run --timeout 1s -- sleep 60",
    "csb run -- python3 -c 'import socket; socket.create_connection((\"1.1.1.1\", 80))' 2>&1 | tail -1",
    "id=$(csb create)                      # the server of `make run` runs in another terminal",
    "echo 'print(\"hello from a file\")' > hello.py; csb cp hello.py $id:/workspace/",
    "csb exec $id -- python3 hello.py",
    "csb ps; csb rm $id",
]
PROMPT = "$ "
FONTS = "/usr/share/fonts/truetype/dejavu/DejaVuSansMono"
PALETTE = ["#1d1f21", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d7dae0"]
INK, PAPER = "#d7dae0", "#1d1f21"


def tmux(socket, *words):
    return subprocess.run(["tmux", "-S", socket, *words], check=True, capture_output=True, text=True).stdout


def record(csb):
    """What the terminal shows after the commands, with its escape sequences."""
    scratch = tempfile.mkdtemp()
    socket = os.path.join(scratch, "tmux")
    os.symlink(os.path.abspath(csb), os.path.join(scratch, "csb"))
    shell = f"cd {scratch}; PS1='{PROMPT}' PATH={scratch}:$PATH exec bash --norc --noprofile"
    tmux(socket, "-f", "/dev/null", "new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), shell)
    try:
        screen = lambda: tmux(socket, "capture-pane", "-p").rstrip("\n")
        wait(lambda: screen() == PROMPT.rstrip() or screen() == PROMPT)
        for command in COMMANDS:
            tmux(socket, "send-keys", "-l", command)
            tmux(socket, "send-keys", "Enter")
            time.sleep(0.3)
            wait(lambda: screen().split("\n")[-1].rstrip() == PROMPT.rstrip())
        return tmux(socket, "capture-pane", "-p", "-e").rstrip("\n")
    finally:
        tmux(socket, "kill-server")
        shutil.rmtree(scratch)


def wait(ready, seconds=30):
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            sys.exit("the terminal did not come to a prompt")
        time.sleep(0.1)


def cells(text):
    """(line, column, character, colour, bold) of everything visible."""
    colour, bold = INK, False
    for row, line in enumerate(text.split("\n")):
        column = 0
        for part in re.split(r"(\x1b\[[0-9;]*m)", line):
            found = re.fullmatch(r"\x1b\[([0-9;]*)m", part)
            if not found:
                for character in part:
                    yield row, column, character, colour, bold
                    column += 1
                continue
            for code in (int(c or 0) for c in found[1].split(";")):
                if code == 0:
                    colour, bold = INK, False
                elif code == 1:
                    bold = True
                elif code == 22:
                    bold = False
                elif code == 39:
                    colour = INK
                elif 30 <= code <= 37:
                    colour = PALETTE[code - 30]
                elif 90 <= code <= 97:
                    colour = PALETTE[code - 90]


def draw(text, output):
    plain = ImageFont.truetype(FONTS + ".ttf", SIZE)
    strong = ImageFont.truetype(FONTS + "-Bold.ttf", SIZE)
    width, height, margin = plain.getlength("M"), SIZE + 4, 14
    rows = text.count("\n") + 1
    image = Image.new("RGB", (int(COLUMNS * width) + 2 * margin, rows * height + 2 * margin), PAPER)
    pen = ImageDraw.Draw(image)
    typed = {row for row, line in enumerate(re.sub(r"\x1b\[[0-9;]*m", "", text).split("\n")) if line.startswith(PROMPT)}
    for row, column, character, colour, bold in cells(text):
        if row in typed:
            colour, bold = ("#98c379", True) if column == 0 else ("#ffffff", True)
        at = (margin + column * width, margin + row * height)
        pen.text(at, character, fill=colour, font=strong if bold else plain)
    image.save(output, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    draw(record(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "docs/guides/first-run.png")
