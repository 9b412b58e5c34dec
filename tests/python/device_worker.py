"""A worker that does one thing with a GPU's memory, says so with a line of JSON, and stays until it is killed or
its input ends.

    python device_worker.py ENDPOINT put|reserve|hold|lend|borrow KEY
"""

import json
import sys

import numpy as np

import infercache
from gpu_memory import Driver, GpuArray, write

VALUE = np.arange(3000, dtype=np.float32).reshape(3, 1000)


def main(endpoint, what, key):
    driver = Driver()
    client = infercache.connect(endpoint)
    device = client.device(driver.ordinal)
    view = room = None
    if what == "put":
        done = device.put(key, GpuArray(driver, VALUE)).outcome
    elif what in ("reserve", "hold"):
        room = device.reserve(key, VALUE.shape, VALUE.dtype)
        write(driver, room.address, VALUE)
        done = room.commit().outcome if what == "reserve" else "reserved"
    elif what == "lend":
        done = "lent" if device.lend(key, GpuArray(driver, VALUE)).lent else str(device.last_failure)
    else:
        view = device.borrow(key)
        done = str(device.last_failure) if view is None else view.numpy().sum().item()
    print(json.dumps(done), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
