"""What a program sends, read from its text: lines by hand against closed forms."""

import pytest

from artifex_keras.planning import CHIPS
from artifex_keras.planning.collectives import Collective, collectives, traffic, wire_bytes


def program(*lines, before=""):
    """A module whose entry has these instructions."""
    body = "\n".join(f"  {line}" for line in lines)
    return f"HloModule jit_step\n{before}\nENTRY %main (p: f32[4]) -> f32[4] {{\n{body}\n}}\n"


EIGHT = "replica_groups={{0,1,2,3,4,5,6,7}}"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            f"%a = f32[64,256]{{1,0}} all-reduce(%x), channel_id=1, {EIGHT}, to_apply=%add",
            ("all-reduce", 65536, 8, 2 * 7 / 8 * 65536),
        ),
        (
            "%a = bf16[16,8]{1,0:T(8,128)(2,1)S(1)} all-gather(%x), replica_groups=[8,4]<=[32], "
            "dimensions={0}",
            ("all-gather", 256, 4, 3 / 4 * 256),
        ),
        (
            "%a = f32[4,8]{1,0} reduce-scatter(%x), replica_groups=[4,8]<=[8,4]T(1,0), "
            "dimensions={0}, to_apply=%add",
            ("reduce-scatter", 128, 8, 7 * 128),
        ),
        (
            "%a = s32[24]{0} all-to-all(%x), replica_groups={{0,1},{2,3}}, dimensions={0}",
            ("all-to-all", 96, 2, 48.0),
        ),
        (
            "ROOT %a = pred[10]{0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}",
            ("collective-permute", 10, 2, 10),
        ),
        (
            "%a = f32[8,2]{1,0} all-gather(%x), "
            "replica_groups=mesh['axis_0'=4,'axis_1'=8] {'axis_1'}, dimensions={0}",
            ("all-gather", 64, 8, 56.0),
        ),
        ("%a = f32[3]{0} all-reduce(%x), replica_groups={}", ("all-reduce", 12, 16, 22.5)),
    ],
)
def test_one_collective(line, expected):
    (found,) = collectives(program(line), devices=16)
    assert (found.kind, found.payload, found.group, found.wire) == expected


def test_several_tensors_in_one_are_summed():
    kind = "(f32[64,256]{1,0}, f32[256,64]{1,0}, /*index=2*/f32[]{:T(128)})"
    line = f"%a = {kind} all-reduce(%x, %y, %z), {EIGHT}, to_apply=%add"
    assert collectives(program(line)) == [Collective("all-reduce", 2 * 65536 + 4, 8)]


@pytest.mark.parametrize(
    ("start", "payload"),
    [
        (f"(f32[2]{{0}}, f32[16]{{0}}) all-gather-start(%x), {EIGHT}, dimensions={{0}}", 64),
        (f"(f32[4]{{0}}, f32[6]{{0}}) all-reduce-start(%x, %y), {EIGHT}, to_apply=%add", 40),
        (f"f32[4]{{0}} all-reduce-start(%x), {EIGHT}, to_apply=%add", 16),
        (
            "(f32[5]{0}, f32[5]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x), "
            "source_target_pairs={{0,1}}",
            20,
        ),
        (f"((f32[16]{{0}}), f32[2]{{0}}) reduce-scatter-start(%x), {EIGHT}, to_apply=%add", 8),
        (
            f"((f32[2]{{0}}, f32[1]{{0}}), (f32[16]{{0}}, f32[8]{{0}})) "
            f"all-gather-start(%x, %y), {EIGHT}, dimensions={{0}}",
            96,
        ),
    ],
)
def test_an_asynchronous_one_counts_once_by_its_result(start, payload):
    done = f"%b = f32[4]{{0}} {_kind(start)}-done(%a)"
    (found,) = collectives(program(f"%a = {start}", done), devices=8)
    assert (found.payload, found.times) == (payload, 1)


def _kind(start):
    return start.partition("-start(")[0].split(" ")[-1]


def test_one_wrapped_in_a_computation_counts_once():
    wrapped = (
        f"%wrapped (q: f32[16]) -> f32[2] {{\n"
        f"  ROOT %r = f32[2]{{0}} reduce-scatter(%q), {EIGHT}, to_apply=%add\n}}\n"
    )
    text = program(
        "%s = ((f32[16]{0}), f32[2]{0}, s32[]) async-start(%p), calls=%wrapped",
        "%d = f32[2]{0} async-done(%s), calls=%wrapped",
        before=wrapped,
    )
    assert collectives(text) == [Collective("reduce-scatter", 8, 8)]


BODY = (
    "%body (q: (s32[], f32[4])) -> (s32[], f32[4]) {{\n"
    "  %q = (s32[], f32[4]{{0}}) parameter(0)\n"
    "  %i = s32[] get-tuple-element(%q), index=0\n"
    "  %one = s32[] constant({step})\n"
    f"  %r = f32[4]{{{{0}}}} all-reduce(%v), {EIGHT.replace('{', '{{').replace('}', '}}')}\n"
    "  %next = s32[] add(%i, %one)\n"
    "  ROOT %t = (s32[], f32[4]{{0}}) tuple(%next, %r)\n"
    "}}\n"
    "%condition (q: (s32[], f32[4])) -> pred[] {{\n"
    "  %q = (s32[], f32[4]{{0}}) parameter(0)\n"
    "  %i = s32[]{{:T(128)}} get-tuple-element(%q), index=0\n"
    "  %n = {bound}\n"
    "  ROOT %c = pred[] compare(%i, %n), direction=LT\n"
    "}}\n"
)
LOOP = "%w = (s32[], f32[4]{0}) while(%t0), condition=%condition, body=%body"


@pytest.mark.parametrize(
    ("loop", "step", "bound", "times", "unknown"),
    [
        (LOOP + ', backend_config={"known_trip_count":{"n":"5"}}', 1, "s32[] parameter(0)", 5, 0),
        (LOOP, 1, "s32[]{:T(128)} constant(7)", 7, 0),
        (LOOP, 2, "u32[] constant(7)", 4, 0),
        (LOOP, 1, "s32[] get-tuple-element(%q), index=1", 1, 1),
    ],
)
def test_what_is_in_a_loop_counts_as_often_as_it_turns(loop, step, bound, times, unknown):
    found = traffic(program(loop, before=BODY.format(step=step, bound=bound)))
    assert found == ([Collective("all-reduce", 16, 8, times)], 1, unknown)
    assert found.wire == times * 2 * 7 / 8 * 16


def test_loops_in_loops_multiply():
    inner = BODY.format(step=1, bound="s32[] constant(3)")
    outer = inner.replace("%body", "%outer").replace("%condition", "%outer_condition")
    outer = outer.replace("constant(3)", "constant(2)").replace(
        "%r = f32[4]{0} all-reduce(%v)", LOOP
    )
    text = program(
        "%o = (s32[], f32[4]{0}) while(%t0), condition=%outer_condition, body=%outer",
        before=inner + outer,
    )
    assert [each.times for each in collectives(text)] == [6]


def test_parts_of_one_in_several_fusions_count_once():
    fusion = (
        "%async_collective_fusion.{n} (q: f32[2]) -> f32[16] {{\n"
        "  %g = f32[16]{{0}} all-gather(%q), channel_id=3, replica_groups=[1,8]<=[8]\n}}\n"
    )
    lines = [
        f"%f{n} = f32[16]{{0}} fusion(%p), kind=kCustom, calls=%async_collective_fusion.{n}"
        for n in range(3)
    ]
    text = program(*lines, before="".join(fusion.format(n=n) for n in range(3)))
    assert collectives(text) == [Collective("all-gather", 64, 8)]


def test_an_all_reduce_of_which_each_keeps_a_part_is_a_reduce_scatter():
    fusion = (
        "%all-reduce-scatter.1 (input: f32[8192,512]) -> f32[1024,512] {\n"
        f"  %a = f32[8192,512]{{1,0}} all-reduce(%input), channel_id=2, {EIGHT}\n"
        "  ROOT %s = f32[1024,512]{1,0} dynamic-slice(%a, %i, %j)\n}\n"
    )
    line = "%f = f32[1024,512]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1"
    (found,) = collectives(program(line, before=fusion))
    assert found == Collective("reduce-scatter", 4 * 1024 * 512, 8)
    assert found.wire == 7 / 8 * 4 * 8192 * 512


def test_what_isnt_called_or_stays_on_a_device_doesnt_count():
    unused = f"%unused (q: f32[2]) -> f32[2] {{\n  %r = f32[2]{{0}} all-reduce(%q), {EIGHT}\n}}\n"
    text = program("%a = f32[4]{0} all-reduce(%x), replica_groups={{0},{1}}", before=unused)
    assert collectives(text, devices=2) == []


@pytest.mark.parametrize(
    ("groups", "group", "reach"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4, 4),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", 2, 5),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", 2, 5),
        ("replica_groups=[2,4]<=[8]", 4, 4),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", 2, 5),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", 4, 4),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}", 4, 6),
    ],
)
def test_a_group_reaches_over_those_between(groups, group, reach):
    (found,) = collectives(program(f"%a = f32[4]{{0}} all-reduce(%x), {groups}"), devices=8)
    assert (found.group, found.reach) == (group, reach)
    # Of hosts of 4 GPUs the second kind goes over the network.
    chip = CHIPS["h100"]._replace(island=4)
    assert chip.sending(found.reach) == (chip.links if reach == 4 else chip.beyond)


def test_sums_by_kind():
    text = program(
        f"%a = f32[4]{{0}} all-reduce(%x), {EIGHT}",
        f"%b = f32[8]{{0}} all-reduce(%x), {EIGHT}",
        f"%c = f32[8]{{0}} all-gather(%x), {EIGHT}",
    )
    assert traffic(text).by_kind() == {
        "all-gather": {"count": 1, "payload": 32, "wire": 28.0},
        "all-reduce": {"count": 2, "payload": 48, "wire": 84.0},
    }


@pytest.mark.parametrize("kind", ["all-reduce", "all-gather", "reduce-scatter", "all-to-all"])
def test_one_device_sends_nothing(kind):
    assert wire_bytes(kind, 1, 1000) == 0


def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather():
    size, group = 4096, 8
    both = wire_bytes("reduce-scatter", group, size / group) + wire_bytes("all-gather", group, size)
    assert wire_bytes("all-reduce", group, size) == both
