# SPDX-License-Identifier: Apache-2.0
"""SROS2: who may publish, subscribe, serve and call what, and the keystore that says so."""
