# SPDX-License-Identifier: Apache-2.0
"""X-ray node: stands in for tube and detector.

One worker thread loads the patient and makes every exposure; the executor's threads hand over requests and never wait.

A stop ends the beam as well as the motion: from the moment the arm's state tells of it, nothing is exposed until it is
reset, requests that wait are refused, and fluoroscopy is over until its rate is set anew. No request is served when it
is older than ``request_timeout_s``, also when the node itself stood still.

Fluoroscopy runs at ``rate_hz``, or at ``held_rate_hz`` while somebody calls ``xray/fluoroscopy`` again and again, as a
foot switch is held: without a call for ``HOLD_S``, or at ``xray/fluoroscopy_end``, it ends.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from builtin_interfaces.msg import Time
from carm_interfaces.msg import CArmState
from carm_interfaces.msg import Exposure as ExposureMessage
from carm_interfaces.srv import Expose
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from shape_msgs.msg import Mesh
from std_srvs.srv import Trigger

from carm_core.errors import CarmError, ConfigurationError
from carm_core.parameters import updated_parameters
from carm_core.plausibility import FreezeWatch, ImplausibleError, number
from carm_core.robot.joint_check import JointStateCheck
from carm_core.robot.joint_history import JointHistory, JointStatesMissingError
from carm_core.robot.kinematics import CArm
from carm_ros.entry import leave
from carm_ros.managed import InactiveError, ManagedNode
from carm_ros.message_checks import LARGEST_STATE, arm_state, joint_state
from carm_ros.messages import camera_info, compressed_image, diagnostics, image, seconds
from carm_ros.node import request_age_s, run_node
from carm_ros.parameters import declare_parameters
from carm_ros.patient_surface import surface_message
from carm_ros.side_node import SideNode
from carm_sim.nodes import xray_messages as messages
from carm_sim.nodes.held_series import HeldSeries
from carm_sim.nodes.logs import RosLogHandler
from carm_sim.nodes.parameters import XrayParameters
from carm_sim.nodes.requests import MOST_WAITING, RequestQueue, WaitingRequest
from carm_sim.patient.patient import Patient
from carm_sim.patient.surface import patient_surface
from carm_sim.patient_loader import load_patient
from carm_sim.xray import Exposure, Request, XraySystem, field_region, read_out

NAMESPACE = "carm"
"""Namespace when none is given."""
HOLD_S = 0.5
"""Fluoroscopy by ``xray/fluoroscopy`` ends when it was not asked for again for so long, s."""

_FREEZE_S = 0.5
"""The node notices when it stood still for longer, s."""
_MOST_KV, _MOST_MAS, _MOST_FIELD_M = 1e3, 1e4, 10.0
_EXECUTOR_THREADS = 4
_IDLE_S = 0.5
_OVERDUE_S = 0.05
_SWITCH_S = 5e-4  # a callback holds the interpreter at most this long while a frame is being made
_LONG_AGO_S = 1e6
_LATEST_PERIODS = 0.9
_MISSED = "no ray meets the patient's CT: the image shows the open beam"


_LATCHED_STATES = (CArmState.STATE_STOPPED, CArmState.STATE_FAULT)


class _NotReadyError(CarmError):
    """The patient is not loaded yet."""


class _BeamStoppedError(CarmError):
    """Nothing is exposed because the arm was stopped."""


class _TooOldError(CarmError):
    """A request has waited too long, or may have."""


class _SeriesEndedError(CarmError):
    """Fluoroscopy has ended while one of its images was made."""


@dataclass(frozen=True, eq=False)
class _Shot:
    """A published exposure."""

    result: Exposure
    stamp: Time


_INTERNAL = Expose.Request.ERROR_INTERNAL
_CODES = (
    (JointStatesMissingError, Expose.Request.ERROR_NO_JOINT_STATES),
    (ConfigurationError, Expose.Request.ERROR_INVALID_REQUEST),
    (ImplausibleError, Expose.Request.ERROR_INVALID_REQUEST),
    (InactiveError, Expose.Request.ERROR_INACTIVE),
    (_BeamStoppedError, Expose.Request.ERROR_STOPPED),
    (_TooOldError, Expose.Request.ERROR_TOO_OLD),
)


def _checked_request(request: Expose.Request) -> Request:
    """Return the technique and the field of a request.

    Raises:
        ImplausibleError: A number cannot be one of an exposure.
    """
    voltage = number("tube_voltage_kv", request.tube_voltage_kv, 0.0, _MOST_KV, "kV")
    charge = number("tube_charge_mas", request.tube_charge_mas, 0.0, _MOST_MAS, "mAs")
    width, height = (number("field", value, 0.0, _MOST_FIELD_M, "m") for value in request.field)
    return Request(voltage, charge, (width, height))


class XrayNode(ManagedNode):
    """Tube, detector and patient of the simulated C-arm. Configured: the patient lies there. Active: it exposes."""

    def __init__(self) -> None:
        """Declare parameters; ``configure`` loads the patient.

        Raises:
            CarmError: A parameter is not allowed.
        """
        super().__init__("xray_node", namespace=NAMESPACE)
        self._logs = RosLogHandler(self.get_logger())
        self._settings = declare_parameters(self, XrayParameters)
        self.autostart = self._settings.autostart
        self._carm = CArm.from_config(self._settings.carm_config or None)
        self._home = read_out(self._carm.view(self._carm.home, self._settings.binning), self._settings.readout_px)
        self._rate_hz = self._settings.rate_hz
        self._held = HeldSeries(HOLD_S)
        self._history = JointHistory(self._carm.joint_names, self._settings.joint_states_timeout_s)
        self._check = JointStateCheck(self._carm.joints)
        self._freezes = FreezeWatch(_FREEZE_S)
        self._hold = ""
        """Why nothing is exposed, because the arm was stopped; empty: it was not."""
        self._rate_set_s = time.monotonic()
        self._requests = RequestQueue(self._settings.request_timeout_s, self._end_request)
        self._loaded = threading.Event()
        self._beam = threading.Event()
        """Set while the node is active: nothing is exposed without."""
        self._shooting = threading.Lock()
        self._dismissed = threading.Event()
        """Set when the worker is to end."""
        self._worker: threading.Thread | None = None
        self._worker_failure: Exception | None = None
        self._system: XraySystem | None = None
        self._missing = False
        self._last: Exposure | None = None
        self._last_frame_s: float | None = None
        self._problem = ""
        self._exposures = 0
        self._left_out = 0
        self._counted = (time.monotonic(), 0)
        self._render_s = 0.0
        images = QoSProfile(depth=2)
        self._raw = self.create_publisher(Image, "xray/image_raw", images)
        self._image = self.create_publisher(Image, "xray/image", images)
        self._compressed = self.create_publisher(CompressedImage, "xray/image/compressed", images)
        self._camera_info = self.create_publisher(CameraInfo, "xray/camera_info", images)
        self._exposure = self.create_publisher(ExposureMessage, "xray/exposure", 10)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._surface = self.create_publisher(Mesh, "patient_surface", latched)
        urgent = MutuallyExclusiveCallbackGroup()
        self.create_subscription(
            CArmState, "state", self._on_state, latched, largest=LARGEST_STATE, callback_group=urgent
        )
        self._side = SideNode(self, "joints")  # a hundred messages a second would each wake the executor of all others
        self._side.subscribe(JointState, "joint_states", self._on_joint_state, 10, LARGEST_STATE)
        self._side.start()
        self.create_service(
            Expose,
            "xray/expose",
            self._on_expose,
            qos_profile=QoSProfile(depth=MOST_WAITING),
            callback_group=ReentrantCallbackGroup(),
        )
        switch = MutuallyExclusiveCallbackGroup()
        self.create_service(Expose, "xray/fluoroscopy", self._on_fluoroscopy, callback_group=switch)
        self.create_service(Trigger, "xray/fluoroscopy_end", self._on_fluoroscopy_end, callback_group=switch)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(
            _OVERDUE_S, lambda: self._requests.refuse_overdue(self._too_old), clock=steady, callback_group=urgent
        )
        self.create_timer(1.0, self._publish_diagnostics, clock=steady)
        self.add_on_set_parameters_callback(self._on_parameters)

    def configure(self) -> None:
        """Load the patient.

        Raises:
            CarmError: The patient cannot be used.
        """
        self._loaded.clear()
        self._dismissed = threading.Event()
        self._worker_failure = None
        self._worker = threading.Thread(target=self._guarded, args=(self._dismissed,), name="xray", daemon=True)
        self._worker.start()
        self.wait_loaded(self._loaded, lambda: self._worker_failure)

    def activate(self) -> None:
        """Switch the generator on."""
        self._beam.set()
        self._requests.wake()

    def end_goals(self, reason: str) -> None:
        """Refuse waiting requests and make no further exposure."""
        self._beam.clear()
        self._held.end()
        self._requests.refuse(InactiveError(reason))

    def deactivate(self) -> None:
        """Switch the generator off; finish and publish an exposure in progress first."""
        self.end_goals(f"{self.called} is being deactivated")
        with self._shooting:
            pass
        self._requests.refuse(InactiveError(self.why_inactive()))

    def cleanup(self) -> None:
        """End the worker and release the patient; do not wait for a worker that is still loading."""
        self._dismissed.set()
        self._requests.wake()
        if self._worker is not None:
            self._worker.join(0.5)
        self._system, self._last = None, None
        self._loaded.clear()
        gc.collect()

    def close(self) -> None:
        """See ``OrderlyNode.close``."""
        self._beam.clear()
        self._dismissed.set()
        self._requests.wake()
        if self._worker is not None and self._loaded.is_set():  # a patient that is being loaded is not waited for
            self._worker.join(0.3)
        self._side.close()
        self._freezes.close()
        self._logs.close()

    def state_changed(self) -> None:
        """Publish the new state at once."""
        self._publish_diagnostics()

    def _guarded(self, dismissed: threading.Event) -> None:
        try:
            self._work(dismissed)
        except Exception as error:  # whatever ends the worker ends the node, with its reason
            self._worker_failure = error
            if self._loaded.is_set():
                self.fail(error)
        finally:
            self._requests.refuse(InactiveError("the X-ray node is shutting down"))

    def _publish_surface(self, patient: Patient) -> None:
        """Publish the patient's outer surface, as a pre-operative CT would show it, once."""
        found = patient_surface(patient)
        self._surface.publish(surface_message(found.vertices_m, found.triangles))

    def _work(self, dismissed: threading.Event) -> None:
        start = time.monotonic()
        patient = load_patient(self._settings.patient)
        system = XraySystem(patient, self._carm, self._settings.config, self._settings.seed)
        system.prepare()
        if dismissed.is_set():
            return
        self._system = system
        gc.freeze()  # what is loaded stays: the collector need not go through it between frames
        gc.enable()
        self._loaded.set()
        due: float | None = None
        if (rate_hz := self._series_hz) and self._beam.wait(_IDLE_S):
            self._fluoroscopy_frame()  # the first image comes before all that is not needed for it
            due = time.monotonic() + 1 / rate_hz
        threading.Thread(target=self._publish_surface, args=(patient,), name="surface", daemon=True).start()
        self.get_logger().info(
            f"patient {patient.name} ready after {time.monotonic() - start:.1f} s ({patient.source})"
        )
        while not dismissed.is_set():
            now = time.monotonic()
            rate_hz = self._series_hz if self._beam.is_set() else 0.0
            due = None if rate_hz <= 0 else now if due is None else due
            request = self._requests.take(_IDLE_S if due is None else max(0.0, due - now), self._beam.is_set)
            if request is not None:
                self._answer(request)
            elif due is not None and rate_hz > 0 and time.monotonic() >= due:
                self._fluoroscopy_frame()
                next_s, latest_s = due + 1 / rate_hz, time.monotonic() - 1 / rate_hz
                self._left_out += max(0, round((latest_s - next_s) * rate_hz))
                due = max(next_s, latest_s)

    @property
    def _series_hz(self) -> float:
        """Images a second of the series that runs; 0 without one."""
        return self._rate_hz or (self._settings.held_rate_hz if self._held.request is not None else 0.0)

    def _fluoroscopy_frame(self) -> None:
        still_s = self._freezes.stood_still_s(self._rate_set_s)
        if still_s > self._settings.request_timeout_s:
            self._end_fluoroscopy(f"this node stood still for {still_s:.1f} s")
            return
        try:
            held = None if self._rate_hz > 0 else self._held.request
            self._shoot(held or self._settings.fluoroscopy, time.monotonic(), fluoroscopy=True)
            self._problem = ""
        except (InactiveError, _BeamStoppedError, _TooOldError, _SeriesEndedError):
            self._problem = ""
        except JointStatesMissingError as error:
            self._problem = str(error)
            self.get_logger().warning(str(error), throttle_duration_sec=5.0)
        except ConfigurationError as error:
            self._end_fluoroscopy(str(error))

    def _end_fluoroscopy(self, reason: str) -> None:
        """End the series; it begins again when its rate is set anew, and not by itself."""
        self._held.end()
        if self._rate_hz <= 0:
            return
        self._rate_hz = 0.0
        ended = f"fluoroscopy ended: {reason}; set rate_hz to begin it again"
        self.get_logger().error(ended)
        if not self._hold:  # else it says so until the reset
            self._problem = ended
        if self.executor is not None:
            self.executor.create_task(self.set_parameters, [Parameter("rate_hz", value=0.0)])

    def _answer(self, request: WaitingRequest) -> None:
        try:
            self._end_request(request, self._shoot(request.request, request.asked_s, fluoroscopy=False))
        except Exception as error:  # handed to the one who asked
            self._end_request(request, error)

    def _end_request(self, request: WaitingRequest, outcome: _Shot | Exception) -> None:
        if self.executor is not None:
            self.executor.create_task(request.answer.set_result, outcome)

    def _too_old(self, asked_s: float) -> CarmError:
        if not self._loaded.is_set():
            return _NotReadyError(f"patient {self._settings.patient} is still being loaded; ask again")
        limit_s, age_s = self._settings.request_timeout_s, time.monotonic() - asked_s
        return _TooOldError(f"the request was sent {age_s:.1f} s ago, more than {limit_s:g} s; ask again")

    def _check_release(self, asked_s: float) -> None:
        """Return if an exposure may be made now.

        Args:
            asked_s: When it was asked for, monotonic, s.

        Raises:
            _BeamStoppedError: The arm was stopped.
            _TooOldError: It was asked for too long ago.
        """
        if self._hold:
            raise _BeamStoppedError(self._hold)
        if time.monotonic() - asked_s > self._settings.request_timeout_s:
            raise self._too_old(asked_s)

    def _shoot(self, request: Request, asked_s: float, fluoroscopy: bool) -> _Shot:
        """Expose now and publish, unless the node is not active, the arm was stopped or the request is too old."""
        with self._shooting:
            if not self._beam.is_set():
                raise InactiveError(self.refusal() or self.why_inactive())
            self._check_release(asked_s)
            return self._expose(request, asked_s, fluoroscopy)

    def _expose(self, request: Request, asked_s: float, fluoroscopy: bool) -> _Shot:
        """Expose now and publish: the pulse is centered on this moment."""
        if self._system is None:
            raise _NotReadyError(f"patient {self._settings.patient} is still being loaded")
        middle = self.get_clock().now()
        middle_s = middle.nanoseconds * 1e-9
        positions = self._history.at(middle_s)
        if fluoroscopy:
            before_s = self._last_frame_s
            since_s = _LONG_AGO_S if before_s is None else max(0.0, middle_s - before_s)
            request = replace(request, since_last_s=since_s)
        self._last_frame_s = middle_s if fluoroscopy else None
        began_s, begin = time.monotonic(), time.perf_counter()

        def release() -> None:
            self._render_s = time.perf_counter() - begin
            if fluoroscopy and (rate_hz := self._series_hz) > 0:  # a steady rhythm
                delay_s = min(self._settings.fluoroscopy_delay_s, _LATEST_PERIODS / rate_hz)
                self._dismissed.wait(max(0.0, delay_s - self._render_s))
            if fluoroscopy and not self._series_hz:
                raise _SeriesEndedError("fluoroscopy has ended")
            still_s = self._freezes.stood_still_s(began_s)  # a long computation is no reason to refuse
            self._check_release(asked_s if still_s > self._settings.request_timeout_s else time.monotonic())

        result = self._system.expose(positions, request, release)
        self._exposures += 1
        stamp = middle.to_msg()
        self._publish(result, stamp, fluoroscopy)
        self._watch(result)
        return _Shot(result, stamp)

    def _publish(self, result: Exposure, stamp: Time, fluoroscopy: bool) -> None:
        header = messages.exposure_header(stamp, self._settings.frame_prefix)
        self._camera_info.publish(camera_info(result.view, header))
        self._exposure.publish(messages.exposure(result, header, fluoroscopy))
        self._image.publish(image(result.display, header))
        if self._compressed.get_subscription_count() > 0:
            form, quality = self._settings.compressed_format, self._settings.jpeg_quality
            self._compressed.publish(compressed_image(result.display, header, form, quality))
        if self._raw.get_subscription_count() > 0:
            self._raw.publish(image(result.raw, header))

    def _watch(self, result: Exposure) -> None:
        """Warn once when rays begin to miss, and when a dose alarm goes on."""
        missing = result.hit_fraction == 0
        if missing and not self._missing:
            isocenter = ", ".join(f"{value / 1000:z.3f}" for value in result.view.isocenter_mm)
            self.get_logger().warning(f"{_MISSED} (isocenter at {isocenter} m in frame table)")
        self._missing = missing
        if result.warning and not (self._last and self._last.warning):
            self.get_logger().warning(result.warning)
        self._last = result

    def _on_joint_state(self, message: JointState) -> None:
        read = joint_state(message, self._check, time.monotonic())
        if read is None:
            self.get_logger().warning(
                f"joint state without all of {', '.join(self._carm.joint_names)} ignored",
                throttle_duration_sec=5.0,
            )
            return
        self._history.add(seconds(message.header.stamp), dict(zip(self._carm.joint_names, read[0], strict=True)))

    def _on_state(self, message: CArmState) -> None:
        """End the beam with the motion."""
        state = arm_state(message).state
        if state in _LATCHED_STATES:
            kind = "stopped" if state == CArmState.STATE_STOPPED else "at fault"
            self._hold = f"nothing is exposed, the arm is {kind}: {message.message or 'reset first'}"
            self._end_fluoroscopy(self._hold)
        elif state == CArmState.STATE_STOPPING:
            self._hold = f"nothing is exposed while the arm decelerates: {message.message}"
        else:
            self._hold = ""
        if self._hold:
            self._requests.refuse(_BeamStoppedError(self._hold))

    async def _on_expose(self, request: Expose.Request, response: Expose.Response) -> Expose.Response:
        try:
            shot = await self._requested(request, time.monotonic() - request_age_s())
        except Exception as error:  # a fault must reach the one who asked
            self._refuse_exposure(response, error)
        else:
            if shot is None:
                response.error_code = Expose.Request.ERROR_FLUOROSCOPY_ACTIVE
                response.error_msg = f"fluoroscopy runs at {self._series_hz:g} Hz; use its frames"
                return response
            response.success, response.error_code = True, Expose.Request.ERROR_NONE
            response.stamp, response.sequence = shot.stamp, shot.result.sequence
            response.error_msg = f"warning: {_MISSED}" if shot.result.hit_fraction == 0 else ""
        return response

    def _refuse_exposure(self, response: Expose.Response, error: Exception) -> None:
        response.error_code = next((code for kind, code in _CODES if isinstance(error, kind)), _INTERNAL)
        response.error_msg = str(error) if isinstance(error, CarmError) else f"{type(error).__name__}: {error}"
        if not isinstance(error, CarmError):
            self.get_logger().error(f"exposure failed: {response.error_msg}")

    def _on_fluoroscopy(self, request: Expose.Request, response: Expose.Response) -> Expose.Response:
        """Begin fluoroscopy or go on with it; it ends ``HOLD_S`` after the last request."""
        try:
            asked_s = time.monotonic() - request_age_s()
            wanted = _checked_request(request)
            field_region(self._home, wanted.field_m)
            if not self._beam.is_set():
                raise InactiveError(self.refusal() or self.why_inactive())
            self._check_release(asked_s)
            if self._system is None:
                raise _NotReadyError(f"patient {self._settings.patient} is still being loaded")
        except Exception as error:
            self._held.end()
            self._refuse_exposure(response, error)
            return response
        if self._rate_hz > 0:
            response.error_code = Expose.Request.ERROR_FLUOROSCOPY_ACTIVE
            response.error_msg = f"fluoroscopy runs at {self._rate_hz:g} Hz by the parameter rate_hz"
            return response
        if self._held.renew(wanted, asked_s):
            self._rate_set_s = time.monotonic()
            self._requests.wake()
        if self._hold:  # the stop came in between
            self._held.end()
        response.success, response.error_code = True, Expose.Request.ERROR_NONE
        response.sequence = self._last.sequence if self._last else 0
        return response

    def _on_fluoroscopy_end(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        del request
        response.success, response.message = True, "" if self._held.end() else "no fluoroscopy was held"
        return response

    async def _requested(self, request: Expose.Request, asked_s: float) -> _Shot | None:
        """Have the worker make an exposure; None while fluoroscopy runs."""
        wanted = _checked_request(request)
        if reason := self.refusal():
            raise InactiveError(reason)
        if not self._beam.is_set() and not self.starting:
            raise InactiveError(self.why_inactive())
        self._check_release(asked_s)
        if self._beam.is_set() and self._series_hz > 0:
            return None
        waiting = WaitingRequest(wanted, asked_s, Future(executor=self.executor))
        self._requests.add(waiting)
        if self._hold:  # the stop came in between
            self._requests.refuse(_BeamStoppedError(self._hold))
        if not self._beam.is_set() and not self.starting:
            self._requests.refuse(InactiveError(self.refusal() or self.why_inactive()))
        outcome = await waiting.answer
        if isinstance(outcome, Exception):
            raise outcome
        return outcome  # type: ignore[no-any-return]

    def _on_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        settings, reason = updated_parameters(replace(self._settings, rate_hz=self._rate_hz), parameters)
        if not reason and settings.rate_hz > 0 and self._hold and any(p.name == "rate_hz" for p in parameters):
            reason = self._hold
        if reason:
            return SetParametersResult(successful=False, reason=reason)
        if any(p.name == "rate_hz" for p in parameters):
            self._rate_set_s = time.monotonic()
            self._problem = self._problem if settings.rate_hz == 0 else ""
        self._rate_hz, self._settings = settings.rate_hz, settings
        if self._system is not None:
            self._system.adjust(settings.config)
        self._requests.wake()
        return SetParametersResult(successful=True)

    def _publish_diagnostics(self) -> None:
        level, text = DiagnosticStatus.OK, "fluoroscopy" if self._series_hz > 0 else "ready"
        if not (self.active or self.starting):
            level, text = DiagnosticStatus.WARN, self.life_state
        elif not self._loaded.is_set():
            level, text = DiagnosticStatus.WARN, f"loading patient {self._settings.patient}"
        elif self._missing:
            level, text = DiagnosticStatus.WARN, _MISSED
        elif self._hold:
            level, text = DiagnosticStatus.WARN, self._hold
        elif self._problem:
            level, text = DiagnosticStatus.ERROR, self._problem
        elif self._last and self._last.warning:
            level, text = DiagnosticStatus.WARN, self._last.warning
        now_s, (then_s, exposures) = time.monotonic(), self._counted
        self._counted = (now_s, self._exposures)
        values = {
            "patient": self._settings.patient,
            "rate (Hz)": f"{self._series_hz:g}",
            "images (Hz)": f"{(self._exposures - exposures) / max(now_s - then_s, 1e-3):.1f}",
            "images left out": str(self._left_out),
            "requests waiting": str(len(self._requests)),
            "exposures": str(self._exposures),
            "last exposure took (ms)": f"{1e3 * self._render_s:.1f}",
        }
        if self._last:
            values |= messages.dose_values(self._last)
        values |= self.refusals.values()
        name = f"{self.get_fully_qualified_name()}: X-ray"
        self._diagnostics.publish(diagnostics(self.get_clock().now().to_msg(), name, level, text, values))


def main(arguments: list[str] | None = None) -> int:
    """Run the X-ray node; see ``carm_ros.node.run_node``.

    Args:
        arguments: ROS arguments; None: those of the process.
    """
    sys.setswitchinterval(_SWITCH_S)
    gc.disable()  # until all is loaded: nothing of that is garbage
    return run_node("xray_node", XrayNode, arguments, threads=_EXECUTOR_THREADS, images=True)


if __name__ == "__main__":
    leave(main())
