# SPDX-License-Identifier: Apache-2.0
"""Motors with CANopen drives (CiA 402): bus, state machine, homing, and a simulated bus."""
