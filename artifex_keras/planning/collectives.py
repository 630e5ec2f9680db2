"""What a compiled program sends between devices, read from its text.

XLA's partitioner writes the collectives into the program: which there are is a fact of the text,
and how many bytes each sends follows from its shape and the size of its group.
"""

import math
import re
from typing import NamedTuple

import numpy as np

__all__ = ["WIRE", "Collective", "Traffic", "collectives", "traffic", "wire_bytes"]

# Bytes that a device of a group of g sends in a ring, of results of B bytes on each device.
WIRE = {
    "all-reduce": lambda g, size: 2 * (g - 1) / g * size,
    "all-gather": lambda g, size: (g - 1) / g * size,
    "reduce-scatter": lambda g, size: (g - 1) * size,
    "all-to-all": lambda g, size: (g - 1) / g * size,
    "ragged-all-to-all": lambda g, size: (g - 1) / g * size,
    "collective-broadcast": lambda g, size: (g - 1) / g * size,
    "collective-permute": lambda g, size: size,
}
KINDS = "|".join(sorted(WIRE, key=len, reverse=True))

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
OPCODE = re.compile(r"([\w\-]+)\(")
COLLECTIVE = re.compile(rf"({KINDS})(-start)?")
ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
TRIPS = re.compile(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)')
CONSTANT = re.compile(r"[su](?:32|64)\[\]\S* constant\((\d+)\)")
COUNT = re.compile(r"get-tuple-element\(.*\), index=(\d+)")
NAME = re.compile(r"%([\w.\-]+)")
CHANNEL = re.compile(r"\bchannel_id=(\d+)")
MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}")
AXIS = re.compile(r"['\"]?(\w+)['\"]?=(\d+)")
PART = re.compile(r"['\"]?(\w+)['\"]?(?::\(\d+\)(\d+))?")
# TPUs add and scatter in one: an all-reduce in a fusion of this name, of which each keeps a part.
SCATTERS = re.compile(r"all-reduce-scatter")
SAMPLES = re.compile(r'op_name="[^"]*\brollout/')  # the scope of `rl.rollout_weights`


class Collective(NamedTuple):
    """One collective: its kind, bytes of its result on a device, devices in its group, how often a
    run of the program does it, if they aren't neighbours over how many devices they lie, and the
    part of a step that it is of: "rollout" where a policy samples, "token" in its loop over tokens.
    """

    kind: str
    payload: int
    group: int
    times: int = 1
    span: int = 0
    part: str = ""

    @property
    def wire(self):
        """Bytes that a device sends for it in a run of the program."""
        return self.times * wire_bytes(self.kind, self.group, self.payload)

    @property
    def reach(self):
        """From the first to the last of its devices, as the mesh counts them: how many."""
        return max(self.group, self.span)


class Traffic(NamedTuple):
    """All collectives of a program, in a list.

    Of its `loops` there are `unknown_loops` that send and of which nobody knows how often they
    turn: what they send counts once.
    """

    collectives: list
    loops: int = 0
    unknown_loops: int = 0

    @property
    def wire(self):
        """Bytes that a device sends in a run of the program."""
        return sum(each.wire for each in self.collectives)

    def by_kind(self):
        """`{kind: {"count", "payload", "wire"}}`, bytes for a device and a run."""
        found = {}
        for each in self.collectives:
            row = found.setdefault(each.kind, {"count": 0, "payload": 0, "wire": 0.0})
            row["count"] += each.times
            row["payload"] += each.times * each.payload
            row["wire"] += each.wire
        return dict(sorted(found.items()))


def wire_bytes(kind, group, payload):
    """Bytes that each device sends in a ring of `group` devices, of a result of `payload` bytes.

    B is the result on one device: an all-reduce sends 2(g-1)/g·B, an all-gather (g-1)/g·B, a
    reduce-scatter (g-1)·B (its result is a part), an all-to-all (g-1)/g·B, a permutation B.
    """
    return WIRE[kind](group, payload) if group > 1 else 0.0


def collectives(text, devices=1):
    """The collectives of a program, those between one device alone left out. A list."""
    return traffic(text, devices).collectives


def traffic(text, devices=1):
    """The `Traffic` of a program in XLA's text form (`compiled.as_text()`).

    What is in a loop counts as often as it turns, where the text says so; what is in branches
    counts as if all were taken. Asynchronous ones count where they start.

    Args:
        text: of the whole module, after partitioning.
        devices: how many run it: the group of a collective that names none.
    """
    computations, entry = _computations(text)
    times, loops, unknown = _times(computations, entry)
    loops_within = _in_loops(computations)
    fused = _fused(computations)
    found, seen = [], set()
    for name, instructions in computations.items():
        for each in instructions:
            match = COLLECTIVE.fullmatch(each.opcode)
            if not match or not times.get(name):
                continue
            channel = CHANNEL.search(each.rest)
            if name in fused and channel:
                if channel[1] in seen:  # TPUs send a part of it in each of several fusions
                    continue
                seen.add(channel[1])
            payload = _payload(each.type, match[1], bool(match[2]))
            members = _members(each.rest)
            group = len(members) or _group(each.rest, devices)
            span = _span(members)
            one = _collective(match[1], payload, group, times[name], name, span)
            if SAMPLES.search(each.rest):
                one = one._replace(part="token" if name in loops_within else "rollout")
            found.append(one)
    return Traffic([each for each in found if each.group > 1], loops, unknown)


def _collective(kind, payload, group, times, computation, span):
    if kind == "all-reduce" and SCATTERS.search(computation):
        kind, payload = "reduce-scatter", payload // group
    return Collective(kind, payload, group, times, span)


# The text


class _Instruction(NamedTuple):
    name: str
    type: str
    opcode: str
    rest: str  # of the line, from the opcode on

    @property
    def operands(self):
        """The names of what it reads."""
        begin = self.rest.index("(")
        return NAME.findall(self.rest[begin : begin + _closing(self.rest[begin:])])


def _computations(text):
    """`({name: instructions}, the name of the entry)`."""
    computations, entry, current = {}, None, None
    for line in text.splitlines():
        if opened := COMPUTATION.match(line):
            current = computations.setdefault(opened[2], [])
            entry = opened[2] if opened[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := INSTRUCTION.match(line)):
            kind, rest = _type_and_rest(found[2])
            if opcode := OPCODE.match(rest):
                current.append(_Instruction(found[1], kind, opcode[1], rest))
    return computations, entry


def _type_and_rest(text):
    """The type at the beginning of an instruction, and what follows it."""
    if not text.startswith("("):
        kind, _, rest = text.partition(" ")
        return kind, rest
    end = _closing(text)
    return text[: end + 1], text[end + 1 :].lstrip()


def _closing(text):
    """Where the parenthesis closes that `text` begins with."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place
    return len(text) - 1


def _elements(kind):
    """The types in a tuple type, one level down."""
    found, depth, begin, inside = [], 0, 1, kind[:-1]
    for place, letter in enumerate(inside):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 1:
            found.append(inside[begin:place])
            begin = place + 1
    return [re.sub(r"/\*.*?\*/", "", part).strip() for part in (*found, inside[begin:])]


def _payload(kind, collective, starts):
    """Bytes of the result. What starts an asynchronous one gives its operands before the result."""
    if starts and kind.startswith("("):
        elements = _elements(kind)
        if collective != "all-reduce" or elements[0].startswith("("):
            kind = elements[1]
    return sum(
        _bits(dtype) * math.prod(int(n.lstrip("<=")) for n in shape.split(",") if n) // 8
        for dtype, shape in ARRAY.findall(kind)
    )


def _bits(dtype):
    digits = re.search(r"\d+", dtype)  # of f8e4m3 the first
    return int(digits[0]) if digits else 8 if dtype == "pred" else 0


def _group(rest, devices):
    """How many devices a collective is among that doesn't list its `_members`."""
    if "source_target_pairs=" in rest or "replica_groups={{}" in rest:
        return 1
    if named := MESH.search(rest):
        sizes = dict(AXIS.findall(named[1]))
        return math.prod(int(part or sizes[axis]) for axis, part in PART.findall(named[2]))
    return devices


def _span(members):
    """Over how many devices a collective's first group lies; 0 where these are neighbours."""
    span = max(members) - min(members) + 1 if members else 0
    return span if span > len(members) else 0


def _members(rest):
    """The numbers of the devices in the first group, or of the first pair; none if unknown."""
    if listed := re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", rest):
        return [int(number) for number in listed[1].split(",")]
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        sizes = [int(size) for size in counted[2].split(",")]
        order = counted[3] and [int(axis) for axis in counted[3].split(",")]
        numbers = np.arange(math.prod(sizes)).reshape(sizes).transpose(order)
        return numbers.reshape(-1, int(counted[1]))[0].tolist()
    named = MESH.search(rest)
    if named and ":" not in named[2]:
        sizes = {axis: int(size) for axis, size in AXIS.findall(named[1])}
        numbers = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
        inside = {axis for axis, _ in PART.findall(named[2])}
        return numbers[tuple(slice(None) if a in inside else 0 for a in sizes)].ravel().tolist()
    return []


def _fused(computations):
    """The names of what fusions are made of."""
    return {
        called
        for instructions in computations.values()
        for each in instructions
        if each.opcode == "fusion"
        for called in _called(each.rest)
    }


# How often


def _times(computations, entry):
    """`({name: how often a run goes through a computation}, loops, loops of unknown length)`."""
    times, loops, unknown = {entry: 1}, 0, 0
    for name in _callers_first(computations, entry):
        for each in computations[name]:
            turns = 1
            if each.opcode == "while":
                turns = _turns(each.rest, computations)
                loops += 1
                unknown += turns is None and _sends(each.rest, computations)
            if each.opcode.endswith(("-done", "-update")):
                continue  # counted where it started
            for called in _called(each.rest):
                times[called] = times.get(called, 0) + times[name] * (turns or 1)
    return times, loops, unknown


def _in_loops(computations):
    """The names of what is called in loops."""
    every = [each for instructions in computations.values() for each in instructions]
    names = [name for each in every if each.opcode == "while" for name in _called(each.rest)]
    found = set()
    while names:
        name = names.pop()
        if name in computations and name not in found:
            found.add(name)
            names += [called for each in computations[name] for called in _called(each.rest)]
    return found


def _callers_first(computations, entry):
    order, seen = [], set()

    def visit(name):
        if name in seen or name not in computations:
            return
        seen.add(name)
        for each in computations[name]:
            for called in _called(each.rest):
                visit(called)
        order.append(name)

    visit(entry)
    return reversed(order)


def _called(rest):
    found = [name for _, name in CALLED.findall(rest)]
    for names in BRANCHES.findall(rest):
        found += [name.strip().lstrip("%") for name in names.split(",")]
    return found


def _turns(rest, computations):
    """How often a loop turns: as the compiler notes, or by the bound and the step of a count from
    zero; None if neither says."""
    if noted := TRIPS.search(rest):
        return int(noted[1])
    parts = dict(CALLED.findall(rest))
    condition = {each.name: each for each in computations.get(parts.get("condition"), ())}
    compared = [each for each in condition.values() if "direction=LT" in each.rest]
    if len(compared) != 1:
        return None
    count, bound = (condition.get(name) for name in compared[0].operands)
    bound, place = _constant(bound), COUNT.search(count.rest if count else "")
    if bound is None or place is None:
        return None
    return -(-bound // _step(computations[parts["body"]], int(place[1])))


def _step(body, place):
    """By how much a turn moves the count at that place of what a loop carries."""
    found = {each.name: each for each in body}
    count = found.get(body[-1].operands[place])  # the root is the last one
    if count is None or count.opcode != "add":
        return 1
    steps = [_constant(found.get(name)) for name in count.operands]
    return next((step for step in steps if step), 1)


def _constant(instruction):
    found = instruction and CONSTANT.match(f"{instruction.type} {instruction.rest}")
    return int(found[1]) if found else None


def _sends(rest, computations):
    """Whether there are collectives in what an instruction calls."""
    names, seen = _called(rest), set()
    while names:
        name = names.pop()
        if name in seen or name not in computations:
            continue
        seen.add(name)
        for each in computations[name]:
            if COLLECTIVE.fullmatch(each.opcode):
                return True
            names += _called(each.rest)
    return False
