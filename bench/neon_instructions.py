"""Counts the instructions of the inner loops of the NEON kernels, from a disassembly:

    ../shared/cross/aarch64 cargo rustc --release -p espalier-kernels --lib -- --emit=obj,link -C codegen-units=1
    aarch64-linux-gnu-objdump -d -C --no-show-raw-insn target/cross/aarch64-unknown-linux-gnu/release/deps/espalier_kernels-*.o > kernels.s
    python bench/neon_instructions.py kernels.s

A loop is inner where no other branch back lies within it. Of each function the loop with the most multiplying
instructions is printed: its instructions by kind, and how many there are for 16 multiply-adds.
"""
import collections
import re
import sys

# Multiply-adds of one instruction, by its name and the form of its first operand.
PRODUCTS = {("sdot", "4s"): 16, ("fmla", "4s"): 4, ("smlal", "4s"): 4, ("smlal2", "4s"): 4, ("smull", "4s"): 4, ("smull2", "4s"): 4,
            ("smlal", "8h"): 8, ("smlal2", "8h"): 8, ("smull", "8h"): 8, ("smull2", "8h"): 8, ("mla", "4s"): 4, ("mul", "4s"): 4,
            ("mla", "8h"): 8, ("mul", "8h"): 8, ("fmadd", ""): 1}
WANTED = re.compile(r"int8::.*::(neon|dotprod)|conv::tile::.*::neon|depthwise::correlate::.*::neon|matmul::pick_(tile|dots)::neon")


def kind(name, operands):
    if (name, form(operands)) in PRODUCTS:
        return "products"
    if name.startswith(("ld", "prfm")):
        return "loads"
    if name.startswith("st"):
        return "stores"
    if name.startswith(("b.", "cb", "tb")) or name in ("b", "cmp", "subs", "add", "sub", "adds", "madd") and not operands.startswith("v"):
        return "loop and addresses"
    return "other"


def form(operands):
    found = re.match(r"v\d+\.(\w+)", operands)
    return found.group(1) if found else ""


def functions(lines):
    name, code = None, []
    for line in lines:
        if head := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            if name and code:
                yield name, code
            name, code = head.group(1), []
        elif found := re.match(r" +([0-9a-f]+):\t(\S+)\s*(.*)", line):
            code.append((int(found.group(1), 16), found.group(2), found.group(3)))
    if name and code:
        yield name, code


def loops(code):
    places = {address: i for i, (address, _, _) in enumerate(code)}
    back = []
    for i, (_, op, operands) in enumerate(code):
        target = re.search(r"\b([0-9a-f]+) <", operands)
        if op.startswith(("b.", "cb", "tb")) or op == "b":
            at = places.get(int(target.group(1), 16)) if target else None
            if at is not None and at <= i:
                back.append((at, i))
    for first, last in back:
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in back):
            yield code[first:last + 1]


for name, code in functions(open(sys.argv[1])):
    if not WANTED.search(name):
        continue
    best = max(((sum(PRODUCTS.get((op, form(x)), 0) for _, op, x in loop), loop) for loop in loops(code)), key=lambda pair: pair[0], default=(0, []))
    if best[0] == 0:
        continue
    kinds = collections.Counter(kind(op, x) for _, op, x in best[1])
    others = collections.Counter(op for _, op, x in best[1] if kind(op, x) == "other")
    parts = ", ".join(f"{n} {k}" for k, n in kinds.most_common())
    print(f"{name.replace('espalier_kernels::', '')}\n    {best[0]} multiply-adds by {len(best[1])} instructions, "
          f"{16 * len(best[1]) / best[0]:.2f} for 16: {parts}" + (f" ({', '.join(f'{n} {k}' for k, n in others.most_common(6))})" if others else ""))
