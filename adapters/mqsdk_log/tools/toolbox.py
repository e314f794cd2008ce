"""The tools of the log as the command line gets them: names, parameters, help."""

from __future__ import annotations

from mqsdk.spi.tools import Call, Field, Parameter, Plan, Report, Table, Tool, Toolbox
from mqsdk_log.engine import root as roots
from mqsdk_log.tools import dumping, looking, reindex, repair, verify
from mqsdk_log.tools.target import Target

_TOPIC = Parameter("TOPIC", "A topic; without it all.")
_ONE_TOPIC = Parameter("TOPIC", "A topic.", required=True)
_PARTITION = Parameter("--partition", "Only this partition.", "number", short="-p")


def verified(call: Call) -> Report:
    """Look at every byte of all topics, or of one."""
    target = Target(call)
    verdicts, findings = [], []
    with target.opened() as root:
        names = target.chosen(root, call.values["topic"])
        gauge = verify.Gauge(verify.total_bytes(root, names), call.advance)
        for name in names:
            with target.unless_gone(call.values["topic"]):
                found, others = verify.topic(root, name, gauge)
                verdicts += found
                findings += [one for verdict in found for one in verdict.findings] + others
    wrong = [one for one in findings if one.kind in verify.WRONG]
    facts = {
        "records": sum(one.course.records for one in verdicts),
        "problems": len(wrong),
        "lost": sum(one.lost for one in findings),
    }
    numbers = [Field(key, True) for key in ("partitions", "segments", "records", "repeats", "problems")]
    tables = (
        Table("topics", verify.summed(verdicts, findings), [Field("topic"), *numbers], "there are no topics"),
        Table("partitions", [one.row for one in verdicts], ()),
        Table("findings", [one.row for one in findings], ()),
    )
    remarks = [one.remark for one in findings]
    return Report(tables, remarks, facts, wrong=bool(wrong), refused=any(one.kind == "unsupported" for one in wrong))


def upgraded(call: Call) -> Plan:
    """Nothing yet: there is one format. Another one is refused when the root is opened."""
    target = Target(call)
    with target.opened() as root:
        found = root.format

    def apply(_advance: object) -> Report:
        return Report(
            facts={
                "format": found,
                "newest": roots.FORMAT,
                "changed": False,
                "what": f"format {found} is the newest that this version knows",
            }
        )

    return Plan((), apply)


TOOLBOX = Toolbox(
    help="""Look at the files of an embedded log, check and repair them.

    ls, dump and verify take no lock and change nothing; they and reindex run beside live processes. repair refuses (5) while any
    process has the log open.""",
    place=Parameter("--root", "Directory of a log; else that of the configuration's."),
    place_key="path",
    tools=(
        Tool(
            "ls",
            "Topics with their segments and groups; of TOPIC every partition and how far each group is.",
            (_TOPIC,),
            look=looking.ls,
        ),
        Tool(
            "dump",
            """Records of TOPIC as they are stored; a body is shown as its length and hash.

            Exit code 1: something of it is damaged, which is told in its place.""",
            (
                _ONE_TOPIC,
                _PARTITION,
                Parameter("--from", "First offset; or a time (2026-01-31T12:00:00Z), or how long ago (15m).", "place"),
                Parameter("--to", "Offset, or time, to end before.", "place"),
                Parameter("--batches", "Batches in place of records.", "flag"),
                Parameter("--delayed", "What is delayed, waiting or moved not long ago, in place of what has its place.", "flag"),
                Parameter("--body", "Show bodies and headers.", "flag"),
            ),
            look=dumping.dump,
        ),
        Tool(
            "verify",
            """Check every byte of all topics, or of TOPIC: segments, indexes, durable marks, progress of groups.

            Exit code 0: clean, or a torn end only, which the next append cuts off; 1: something is wrong; 5: of a later version.""",
            (_TOPIC,),
            look=verified,
        ),
        Tool(
            "repair",
            """Put right what verify finds in TOPIC. Never deletes a record that can be read, never cuts a sealed segment.

            Refused (5) while any process has the log open. Exit code 1: something is left, or with --dry-run: there is something to do.""",
            (_ONE_TOPIC, _PARTITION),
            plan=repair.plan,
        ),
        Tool(
            "reindex",
            "Make the indexes of all topics, or of TOPIC, anew and prove them; beside live processes too.",
            (_TOPIC,),
            plan=reindex.plan,
        ),
        Tool("upgrade", "Raise the format of the log to the newest that this version knows.", plan=upgraded),
    ),
)
