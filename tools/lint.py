"""lint.py - the house rules that a machine can check. No exception lists.   usage: lint.py

Owns:      include edges between the layers, sizes of files, functions and lines, the opening
           comment, banned calls and words, include guards, headers that compile alone, paths named
           in README.md and ARCHITECTURE.md.
Does not:  format (clang-format does), build, or know any file by name.
"""
import concurrent.futures
import glob
import os
import re
import shlex
import subprocess
import sys
import tempfile

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
CODE_FOLDERS = ("kernels", "common", "services", "orchestrator", "tests")
TEXT_FOLDERS = CODE_FOLDERS + ("proto", "tools", ".ci", "k8s")
CODE_ENDS = (".c", ".h", ".cc", ".cu", ".cuh")
TEXT_ENDS = CODE_ENDS + (".py", ".sh", ".proto", "run")
PAGES = ("README.md", "ARCHITECTURE.md")

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
LINE_COLUMNS_MAX = 100
PARAMETERS_MAX = 8  # libmicrohttpd's handler has them

BANNED_CALLS = {
    "strcpy": "use gm_text or snprintf", "strcat": "use gm_text or snprintf",
    "sprintf": "use snprintf", "vsprintf": "use vsnprintf", "gets": "use fgets",
    "atoi": "use a checked parse", "atol": "use a checked parse", "atoll": "use a checked parse",
    "atof": "use a checked parse", "system": "use posix_spawn", "strtok": "use strcspn",
}
BANNED_WORDS = ("TO" "DO", "FIX" "ME", "X" "XX")

# ---- who may include whom ---------------------------------------------------------------------
# The layer of a file, by the first pattern that fits. Headers and sources alike.
LAYERS = (
    (r"kernels/cuda/", "cuda"),
    (r"kernels/", "kernels"),
    (r"common/common\.h$|common/base/", "base"),
    (r"common/net\.h$|common/net/", "net"),
    (r"common/model/config\.h$", "config"),
    (r"common/model/", "model"),
    (r"services/cli/(cut|synth_model|pack_model|kernels_[a-z]+)\.[ch]$", "cut"),
    (r"services/cli/", "client"),
    (r"services/[^/]+/main\.c$", "main"),
    (r"services/[^/]+/edge(_[a-z]+)?\.[ch]$", "edge"),
    (r"services/", "service"),
    (r"orchestrator/edge\.[ch]$", "orchestrator-edge"),
    (r"orchestrator/", "orchestrator"),
    (r"tests/", "tests"),
    (r"[^/]+\.pb-c\.h$", "gen"),
)
# What a layer may include beside itself. A "service" or "orchestrator" header: own folder only.
MAY_INCLUDE = {
    "kernels": {"kernels"},
    "cuda": {"cuda", "kernels"},
    "base": {"base"},
    "net": {"net", "base", "gen"},
    "config": {"config", "model", "base", "kernels"},
    "model": {"config", "model", "base", "kernels"},
    "main": {"edge", "service", "base", "net", "config", "model", "kernels"},
    "cut": {"cut", "base", "config", "model", "kernels"},
    "client": {"client", "cut", "base", "net", "gen"},
    "edge": {"edge", "service", "base", "net", "config", "model", "kernels", "gen"},
    "service": {"service", "base", "config", "model", "kernels"},
    "orchestrator": {"orchestrator", "base", "net", "config"},
    "orchestrator-edge": {"orchestrator-edge", "orchestrator", "base", "net", "config", "gen"},
    "tests": {layer for _, layer in LAYERS},
}
# Libraries: who may include their headers. A header that no pattern fits is the C library's.
LIBRARIES = (
    (r"zmq", {"net"}),
    (r"hiredis/", {"net", "orchestrator", "orchestrator-edge", "edge"}),
    (r"protobuf-c/", {"net", "edge", "client", "orchestrator-edge"}),
    (r"cuda|nv|cublas|cooperative_groups", {"cuda"}),
    (r"xxhash\.h$", {"net", "model", "config", "service", "main", "edge", "client",
                     "orchestrator", "orchestrator-edge"}),
    (r"sodium", {"base", "service", "main", "edge", "client"}),
    (r"sentencepiece|jansson|histedit|editline|microhttpd|curl/|turbojpeg|png\.h|webp/|zstd",
     {"service", "main", "edge", "client"}),
    (r"CUnit/", set()),
)


def layer_of(path):
    return next((layer for pattern, layer in LAYERS if re.match(pattern, path)), None)


def folder_of(path):
    """services/x of a service's file, orchestrator of the orchestrator's: "own header"."""
    parts = path.split("/")
    return "/".join(parts[:2]) if parts[0] == "services" else parts[0]


def edge_problem(path, target):
    """Why the file `path` may not include "target"; None when it may."""
    mine, theirs = layer_of(path), layer_of(target)
    if theirs is None or not (theirs == "gen" or os.path.isfile(os.path.join(ROOT, target))):
        return 'includes "%s", which is no path from the repository root' % target
    if not target.endswith((".h", ".cuh", ".inc")) and mine != "tests":
        return 'includes "%s", which is no header' % target
    if theirs not in MAY_INCLUDE[mine]:
        return 'includes "%s": %s files may not include %s' % (target, mine, theirs)
    if theirs in ("service", "client", "cut", "orchestrator") and mine != "tests" \
            and folder_of(path) != folder_of(target):
        return 'includes "%s" of another program' % target
    return None


def library_problem(path, target):
    mine = layer_of(path)
    for pattern, users in LIBRARIES:
        if re.match(pattern, target):
            if mine in users or mine == "tests":
                return None
            return "includes <%s>, which %s files may not" % (target, mine)
    return None


# ---- reading C --------------------------------------------------------------------------------
TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def bare(text):
    """C text with comments and the insides of literals blanked; lines stay where they are."""
    def blank(match):
        token = match.group(0)
        if token[0] in "\"'":
            return token[0] + " " * (len(token) - 2) + token[-1]
        return re.sub(r"[^\n]", " ", token)
    return TOKEN.sub(blank, text)


def opening_comment(text):
    """All comments before the first line of code."""
    head = re.match(r"(?:\s*(?://[^\n]*|/\*.*?\*/))*", text, re.S)
    return head.group(0)


def functions(lines):
    """(line of the brace, count of lines from { to }, text of the head) of each body that opens
    with a lone brace under a parameter list."""
    found = []
    for at, line in enumerate(lines):
        opens = re.match(r"(\s*)\{\s*$", line)
        if not opens and re.match(r"[A-Za-z_].*\)\s*\{\s*$", line):
            opens = re.match(r"()", line)
        if not opens:
            continue
        head, row = ("" if line.strip() == "{" else line.rstrip(" {")), at - 1
        while row >= 0 and lines[row].strip() and not re.search(r"[;}{]\s*$|^#", lines[row]):
            head = lines[row] + " " + head
            row -= 1
        if not re.search(r"\)\s*(const|noexcept|override|\s)*$", head):
            continue
        shut = re.compile(re.escape(opens.group(1)) + r"\}")
        end = next((i for i in range(at + 1, len(lines)) if shut.match(lines[i])), len(lines) - 1)
        found.append((at, end - at + 1, head))
    return found


def parameter_count(head):
    """The number of parameters in the head of a function: commas of its last outer parentheses."""
    head = re.sub(r"__attribute__\s*\(\(.*?\)\)", "", head)
    depth, count, start = 0, 0, head.find("(")
    for char in head[start:]:
        depth += (char == "(") - (char == ")")
        count += char == "," and depth == 1
        if depth == 0:
            break
    return count + 1


# ---- one file ---------------------------------------------------------------------------------
def check_text(path, text, say):
    """The rules for every text file of ours."""
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > LINE_COLUMNS_MAX:
            say(path, number, "%d columns, at most %d" % (len(line), LINE_COLUMNS_MAX))
        for word in BANNED_WORDS:
            if re.search(r"\b%s\b" % word, line):
                say(path, number, "says %s: do it, or say what holds now" % word)
    head = text[:3000] if not path.endswith(CODE_ENDS) else opening_comment(text)
    if path.endswith(CODE_ENDS + (".py", ".sh")):
        if "owns" not in head.lower() or "does not" not in head.lower():
            say(path, 1, 'the opening comment lacks "Owns" or "Does not"')


def check_code(path, text, say):
    """The rules for C, C++ and CUDA."""
    code = bare(text)
    lines = code.splitlines()
    if len(lines) > FILE_LINES_MAX:
        say(path, len(lines), "%d lines, at most %d: split it" % (len(lines), FILE_LINES_MAX))
    for number, line in enumerate(text.splitlines(), 1):
        include = re.match(r'\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)', line)
        if include:
            own, library = include.groups()
            problem = edge_problem(path, own) if own else library_problem(path, library)
            if problem:
                say(path, number, problem)
    for number, line in enumerate(lines, 1):
        for call in re.findall(r"(?<![\w.>])(\w+)\s*\(", line):
            if call in BANNED_CALLS:
                say(path, number, "calls %s(): %s" % (call, BANNED_CALLS[call]))
    for at, count, head in functions(lines):
        if count > FUNCTION_LINES_MAX:
            say(path, at + 1, "a function of %d lines, at most %d" % (count, FUNCTION_LINES_MAX))
        if re.match(r"[A-Za-z_]", head) and parameter_count(head) > PARAMETERS_MAX:
            say(path, at + 1, "%d parameters, at most %d: use an options struct"
                % (parameter_count(head), PARAMETERS_MAX))
    if path.endswith((".h", ".cuh")):
        guard = re.search(r"^\s*#ifndef (\w+)\s*\n\s*#define (\w+)", code, re.M)
        if not guard or guard.group(1) != guard.group(2) or not re.search(r"#endif\s*$", code):
            say(path, 1, "lacks an include guard around everything")


# ---- headers alone ----------------------------------------------------------------------------
def make_value(name):
    """A variable of the Makefile."""
    done = subprocess.run(["make", "-s", "print-" + name], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit("lint: make print-%s failed: %s" % (name, done.stderr.strip()))
    return shlex.split(done.stdout)


def check_headers(headers, say):
    """A file that includes nothing but the header compiles, with the Makefile's own flags. In
    kernels/cpu that is with the instruction set in the header's name, else with each of them."""
    compiler, flags = make_value("CC"), make_value("CFLAGS")
    flags = [flag for flag in flags if flag not in ("-MMD", "-MP")]
    sets = {name: make_value("SET_" + name) for name in ("avx2", "avx512", "avx512bf16")}

    jobs = []
    for header in headers:
        named = os.path.basename(header).split("_")[0]
        uses = [[]]
        if header.startswith("kernels/cpu/"):
            uses = [sets[named]] if named in sets else list(sets.values())
        jobs += [(header, more) for more in uses]

    def alone(job):
        header, more = job
        with tempfile.NamedTemporaryFile("w", suffix=".c") as source:
            source.write('#include "%s"\n' % header)
            source.flush()
            done = subprocess.run(compiler + flags + more + ["-fsyntax-only", source.name],
                                  cwd=ROOT, capture_output=True, text=True)
        return header, done

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for header, done in pool.map(alone, jobs):
            if done.returncode != 0:
                first = next((line for line in done.stderr.splitlines() if "error" in line), "")
                say(header, 1, "does not compile alone: " + first.split("error: ")[-1])


# ---- pages ------------------------------------------------------------------------------------
def check_page(page, say):
    """Each path in backticks exists: what starts with a folder of ours, or is a file at the root.
    A path may end in :function or :line and may hold * or {a,b}; build/ is not looked into."""
    with open(os.path.join(ROOT, page), encoding="utf-8") as file:
        text = file.read()
    text = re.sub(r"^```.*?^```", lambda m: re.sub(r"[^\n]", " ", m.group(0)), text,
                  flags=re.M | re.S)
    tops = {name for name in os.listdir(ROOT) if os.path.isdir(os.path.join(ROOT, name))}
    tops = (tops | set(TEXT_FOLDERS)) - {"build", ".git"}
    for number, line in enumerate(text.splitlines(), 1):
        for word in re.findall(r"`([^`\s]+)`", line):
            path = re.sub(r":[\w.()-]*$", "", word)
            at_root = re.fullmatch(r"Makefile|LICENSE|[\w.-]+\.md", path)
            if "/" in path and path.split("/")[0] not in tops or not ("/" in path or at_root):
                continue
            choice = re.search(r"\{([^{}]*)\}", path)
            each = [path.replace(choice.group(0), one) for one in choice.group(1).split(",")] \
                if choice else [path]
            for one in each:
                if not glob.glob(os.path.join(ROOT, one)):
                    say(page, number, "names %s, which is not there" % one)


def main():
    problems = []

    def say(path, line, text):
        problems.append("%s:%d: %s" % (path, line, text))

    paths = []
    for top in TEXT_FOLDERS:
        for folder, _, names in os.walk(os.path.join(ROOT, top)):
            paths += [os.path.relpath(os.path.join(folder, name), ROOT) for name in names]
    paths = sorted(path for path in paths if path.endswith(TEXT_ENDS))
    for path in paths:
        with open(os.path.join(ROOT, path), encoding="utf-8", errors="replace") as file:
            text = file.read()
        check_text(path, text, say)
        if path.endswith(CODE_ENDS) and path.startswith(CODE_FOLDERS):
            check_code(path, text, say)
    check_headers([path for path in paths if path.endswith(".h")], say)
    for page in PAGES:
        if os.path.isfile(os.path.join(ROOT, page)):
            check_page(page, say)
        else:
            say(page, 1, "is missing")
    for problem in problems:
        print(problem)
    print("lint: %d files, %d problems" % (len(paths), len(problems)))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
