#include <nanobind/nanobind.h>

#include "client/python/ext/client.h"
#include "client/python/ext/fork_epoch.h"
#include "client/python/ext/view.h"

NB_MODULE(_core, m) {
  m.doc() = "The compiled part of infercache: the C++ client. Use the package, not this.";
  infercache::python::WatchForks();
  infercache::python::DefineView(m);
  infercache::python::DefineClient(m);
}
