#include <nanobind/nanobind.h>

#include "client/python/ext/client.h"
#include "client/python/ext/device.h"
#include "client/python/ext/device_reservation.h"
#include "client/python/ext/device_tensor.h"
#include "client/python/ext/device_view.h"
#include "client/python/ext/fork_epoch.h"
#include "client/python/ext/view.h"

NB_MODULE(_core, m) {
  // A tensor or array that lives until the interpreter ends keeps its view, rightly.
  nanobind::set_leak_warnings(false);
  m.doc() = "The compiled part of infercache: the C++ client. Use the package, not this.";
  infercache::python::WatchForks();
  infercache::python::DefineView(m);
  infercache::python::DefineClient(m);
  infercache::python::DefineDeviceTensor(m);
  infercache::python::DefineDeviceView(m);
  infercache::python::DefineDeviceReservation(m);
  infercache::python::DefineDevice(m);
}
