# SPDX-License-Identifier: Apache-2.0
"""CiA 402 drive profile: object dictionary, states, and the controlword that leads on to a wanted state.

Object indices and bits: CiA 301 4.2 and CiA 402-2 (IEC 61800-7-201). The tables of states and transitions are
those of the library ``canopen``.
"""

from __future__ import annotations

from enum import Enum, IntEnum

from canopen import ObjectDictionary
from canopen.objectdictionary import ODArray, ODRecord, ODVariable
from canopen.objectdictionary import datatypes as types
from canopen.profiles.p402 import OperationMode, State402

from carm_core.errors import CarmError


class DriveError(CarmError):
    """A drive, or the bus to it, does not do what it should.

    Attributes:
        joint: Joint of the drive; empty when the bus itself is meant.
        cause: What is wrong.
    """

    def __init__(self, joint: str, cause: str) -> None:
        """Keep joint and cause.

        Args:
            joint: Joint of the drive; empty when the bus itself is meant.
            cause: What is wrong, in one line.
        """
        self.joint, self.cause = joint, cause
        super().__init__(f"{joint}: {cause}" if joint else cause)


class State(Enum):
    """States of the drive, as the statusword tells them."""

    NOT_READY = "NOT READY TO SWITCH ON"
    SWITCH_ON_DISABLED = "SWITCH ON DISABLED"
    READY = "READY TO SWITCH ON"
    SWITCHED_ON = "SWITCHED ON"
    ENABLED = "OPERATION ENABLED"
    FAULT = "FAULT"
    FAULT_REACTION = "FAULT REACTION ACTIVE"
    QUICK_STOP = "QUICK STOP ACTIVE"


class Mode(IntEnum):
    """Modes of operation (0x6060) that are used here."""

    NONE = OperationMode.NO_MODE
    PROFILE_POSITION = OperationMode.PROFILED_POSITION
    HOMING = OperationMode.HOMING
    CYCLIC_POSITION = OperationMode.CYCLIC_SYNCHRONOUS_POSITION


class Control(IntEnum):
    """Bits of the controlword beside those of the state machine; bit 4 depends on the mode."""

    NEW_SET_POINT = 0x10
    START_HOMING = 0x10
    AT_ONCE = 0x20
    FAULT_RESET = 0x80


class Status(IntEnum):
    """Bits of the statusword beside those of the state machine; 12 and 13 depend on the mode."""

    TARGET_REACHED = 0x0400
    SET_POINT_ACKNOWLEDGED = 0x1000
    HOMING_ATTAINED = 0x1000
    HOMING_ERROR = 0x2000


class Input(IntEnum):
    """Bits of the digital inputs (0x60FD)."""

    NEGATIVE_LIMIT = 1
    POSITIVE_LIMIT = 2
    HOME = 4


class Object(IntEnum):
    """Indices of the object dictionary."""

    CONSUMER_HEARTBEAT = 0x1016
    PRODUCER_HEARTBEAT = 0x1017
    RPDO1 = 0x1400
    RPDO1_MAP = 0x1600
    TPDO1 = 0x1800
    TPDO2 = 0x1801
    TPDO1_MAP = 0x1A00
    TPDO2_MAP = 0x1A01
    ABORT_CONNECTION_OPTION = 0x6007
    ERROR_CODE = 0x603F
    CONTROLWORD = 0x6040
    STATUSWORD = 0x6041
    QUICK_STOP_OPTION = 0x605A
    FAULT_REACTION_OPTION = 0x605E
    MODE = 0x6060
    MODE_DISPLAY = 0x6061
    POSITION = 0x6064
    FOLLOWING_ERROR_WINDOW = 0x6065
    FOLLOWING_ERROR_TIME = 0x6066
    VELOCITY = 0x606C
    TARGET_POSITION = 0x607A
    HOME_OFFSET = 0x607C
    PROFILE_VELOCITY = 0x6081
    PROFILE_ACCELERATION = 0x6083
    PROFILE_DECELERATION = 0x6084
    QUICK_STOP_DECELERATION = 0x6085
    HOMING_METHOD = 0x6098
    HOMING_SPEEDS = 0x6099
    HOMING_ACCELERATION = 0x609A
    INTERPOLATION_PERIOD = 0x60C2
    DIGITAL_INPUTS = 0x60FD


HOLD_AFTER_QUICK_STOP = 6
"""0x605A: brake with the quick stop deceleration and hold the position, state QUICK STOP ACTIVE."""
QUICK_STOP_ON_ABORTED_CONNECTION = 3
"""0x6007: quick stop when the heartbeat of the master stays away."""
FAULT_REACTION_QUICK_STOP = 2
"""0x605E: on a fault brake with the quick stop deceleration, then switch off."""

FOLLOWING_ERROR = 0x8611
HEARTBEAT_ERROR = 0x8130
ERROR_TEXTS = {
    0x2310: "continuous over-current",
    0x3110: "mains over-voltage",
    0x3120: "mains under-voltage",
    0x3210: "DC link over-voltage",
    0x3220: "DC link under-voltage",
    0x4210: "device over-temperature",
    0x4310: "drive over-temperature",
    0x5441: "safe torque off",
    0x7121: "motor blocked",
    0x7305: "incremental sensor error",
    HEARTBEAT_ERROR: "the drive does not receive the heartbeat of the master",
    0x8140: "the drive recovered from bus off",
    FOLLOWING_ERROR: "following error",
    0x8612: "reference limit",
}
"""Error codes of CiA 402 (0x603F)."""


def error_text(code: int) -> str:
    """Describe an error code, for example ``"following error (0x8611)"``."""
    return f"{ERROR_TEXTS.get(code, 'drive fault')} (0x{code:04X})" if code else "drive fault, no error code reported"


def state_of(statusword: int) -> State:
    """Read the state from a statusword; a pattern that the profile does not know counts as not ready."""
    for name, (mask, value) in State402.SW_MASK.items():
        if statusword & mask == value:
            return State(name)
    return State.NOT_READY


_ON_THE_WAY_UP = {
    State.SWITCH_ON_DISABLED: State.READY,
    State.READY: State.SWITCHED_ON,
    State.SWITCHED_ON: State.ENABLED,
    State.QUICK_STOP: State.ENABLED,
    State.FAULT: State.SWITCH_ON_DISABLED,
}


def controlword(state: State, wanted: State) -> int:
    """Return the controlword that brings a drive one transition nearer to a wanted state.

    Args:
        state: Present state.
        wanted: ``ENABLED``, ``QUICK_STOP`` (from the others than enabled: off) or ``SWITCH_ON_DISABLED``. From
            ``FAULT`` the way to ``ENABLED`` starts with the bit for the fault reset, which acts by its rising edge.
    """
    if wanted is State.QUICK_STOP and state in (State.ENABLED, State.QUICK_STOP):
        return int(State402.CW_QUICK_STOP)
    if wanted is not State.ENABLED:
        return int(State402.CW_DISABLE_VOLTAGE)
    if state is State.ENABLED:
        return int(State402.CW_OPERATION_ENABLED)
    following = _ON_THE_WAY_UP.get(state)
    if following is None:
        return int(State402.CW_DISABLE_VOLTAGE)
    return int(State402.TRANSITIONTABLE[state.value, following.value])


_VARIABLES: tuple[tuple[Object, int, int, str], ...] = (
    (Object.PRODUCER_HEARTBEAT, types.UNSIGNED16, 0, "rw"),
    (Object.ABORT_CONNECTION_OPTION, types.INTEGER16, 1, "rw"),
    (Object.ERROR_CODE, types.UNSIGNED16, 0, "ro"),
    (Object.CONTROLWORD, types.UNSIGNED16, 0, "rw"),
    (Object.STATUSWORD, types.UNSIGNED16, 0, "ro"),
    (Object.QUICK_STOP_OPTION, types.INTEGER16, 2, "rw"),
    (Object.FAULT_REACTION_OPTION, types.INTEGER16, 2, "rw"),
    (Object.MODE, types.INTEGER8, 0, "rw"),
    (Object.MODE_DISPLAY, types.INTEGER8, 0, "ro"),
    (Object.POSITION, types.INTEGER32, 0, "ro"),
    (Object.FOLLOWING_ERROR_WINDOW, types.UNSIGNED32, 0xFFFFFFFF, "rw"),
    (Object.FOLLOWING_ERROR_TIME, types.UNSIGNED16, 0, "rw"),
    (Object.VELOCITY, types.INTEGER32, 0, "ro"),
    (Object.TARGET_POSITION, types.INTEGER32, 0, "rw"),
    (Object.HOME_OFFSET, types.INTEGER32, 0, "rw"),
    (Object.PROFILE_VELOCITY, types.UNSIGNED32, 0, "rw"),
    (Object.PROFILE_ACCELERATION, types.UNSIGNED32, 0, "rw"),
    (Object.PROFILE_DECELERATION, types.UNSIGNED32, 0, "rw"),
    (Object.QUICK_STOP_DECELERATION, types.UNSIGNED32, 0, "rw"),
    (Object.HOMING_METHOD, types.INTEGER8, 0, "rw"),
    (Object.HOMING_ACCELERATION, types.UNSIGNED32, 0, "rw"),
    (Object.DIGITAL_INPUTS, types.UNSIGNED32, 0, "ro"),
)
_PDOS = (
    (Object.RPDO1, Object.RPDO1_MAP, 0x200),
    (Object.TPDO1, Object.TPDO1_MAP, 0x180),
    (Object.TPDO2, Object.TPDO2_MAP, 0x280),
)
_PDO_ENTRIES = 8
RPDO1_OBJECTS = (Object.CONTROLWORD, Object.MODE, Object.TARGET_POSITION)
TPDO1_OBJECTS = (Object.STATUSWORD, Object.MODE_DISPLAY, Object.POSITION)
TPDO2_OBJECTS = (Object.VELOCITY, Object.DIGITAL_INPUTS)
RPDO1_LAYOUT, TPDO1_LAYOUT, TPDO2_LAYOUT = "<Hbi", "<Hbi", "<iI"


def object_dictionary(node_id: int) -> ObjectDictionary:
    """Return the part of a CiA 402 drive's object dictionary that the driver uses.

    Args:
        node_id: 1 to 127.
    """
    dictionary = ObjectDictionary()
    for index, kind, default, access in _VARIABLES:
        dictionary.add_object(_variable(index.name, index, 0, kind, default, access))
    for index, entries in (
        (Object.CONSUMER_HEARTBEAT, ((types.UNSIGNED32, 0),)),
        (Object.HOMING_SPEEDS, ((types.UNSIGNED32, 0), (types.UNSIGNED32, 0))),
        (Object.INTERPOLATION_PERIOD, ((types.UNSIGNED8, 10), (types.INTEGER8, -3))),
    ):
        record = ODArray(index.name, index)
        record.add_member(_variable("entries", index, 0, types.UNSIGNED8, len(entries), "ro"))
        for number, (kind, default) in enumerate(entries, 1):
            record.add_member(_variable(f"entry {number}", index, number, kind, default, "rw"))
        dictionary.add_object(record)
    for communication, mapping, cob_base in _PDOS:
        settings = ODRecord(communication.name, communication)
        settings.add_member(_variable("entries", communication, 0, types.UNSIGNED8, 2, "ro"))
        settings.add_member(_variable("COB-ID", communication, 1, types.UNSIGNED32, cob_base + node_id, "rw"))
        settings.add_member(_variable("transmission type", communication, 2, types.UNSIGNED8, 1, "rw"))
        dictionary.add_object(settings)
        mapped = ODRecord(mapping.name, mapping)
        mapped.add_member(_variable("entries", mapping, 0, types.UNSIGNED8, 0, "rw"))
        for number in range(1, _PDO_ENTRIES + 1):
            mapped.add_member(_variable(f"object {number}", mapping, number, types.UNSIGNED32, 0, "rw"))
        dictionary.add_object(mapped)
    return dictionary


def _variable(name: str, index: int, subindex: int, kind: int, default: int, access: str) -> ODVariable:
    variable = ODVariable(name, index, subindex)
    variable.data_type, variable.default, variable.access_type = kind, default, access
    variable.pdo_mappable = True
    return variable
