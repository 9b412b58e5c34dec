// The example manifest in deploy/: it is YAML, its parts agree with each other and with the daemon.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

#include <map>
#include <string>
#include <vector>

#include "common/quantities.h"
#include "tests/e2e/daemon_process.h"

namespace infercache::e2e {
namespace {

using testing::Contains;

class Kubernetes : public testing::Test {
 protected:
  Kubernetes() {
    for (const YAML::Node& object :
         YAML::LoadAllFromFile(DEPLOY_DIRECTORY "/kubernetes/infercache.yaml")) {
      objects_[object["kind"].as<std::string>()] = object;
    }
  }

  YAML::Node Configuration() {
    return YAML::Load(objects_["ConfigMap"]["data"]["infercached.yaml"].as<std::string>());
  }
  YAML::Node DaemonPod() { return objects_["DaemonSet"]["spec"]["template"]["spec"]; }
  YAML::Node Daemon() { return DaemonPod()["containers"][0]; }
  YAML::Node WorkerPod() { return objects_["Pod"]["spec"]; }

  std::map<std::string, YAML::Node> objects_;
};

TEST_F(Kubernetes, TheDaemonTakesItsConfiguration) {
  const TemporaryDirectory directory;
  const std::string file =
      directory.File("c.yaml", objects_["ConfigMap"]["data"]["infercached.yaml"].as<std::string>());
  const auto checked = RunDaemonToEnd({"--check-config", "--config", file});
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_EQ(checked->exit_code, 0) << checked->err;
}

TEST_F(Kubernetes, TheMemoryLimitIsTheCapacityAndAGibibyte) {
  const auto capacity = ParseSize(Configuration()["capacity"].as<std::string>());
  const auto limit = ParseSize(Daemon()["resources"]["limits"]["memory"].as<std::string>());
  ASSERT_TRUE(capacity.ok() && limit.ok());
  EXPECT_EQ(*limit, *capacity + (uint64_t{1} << 30));
}

TEST_F(Kubernetes, AWorkerIsInTheDaemonsGroupAndSeesItsDirectory) {
  const YAML::Node security = WorkerPod()["securityContext"];
  EXPECT_NE(security["runAsUser"].as<int>(), DaemonPod()["securityContext"]["runAsUser"].as<int>());
  EXPECT_THAT(security["supplementalGroups"].as<std::vector<int>>(),
              Contains(DaemonPod()["securityContext"]["runAsGroup"].as<int>()));
  EXPECT_EQ(WorkerPod()["volumes"][0]["hostPath"]["path"].as<std::string>(),
            DaemonPod()["volumes"][0]["hostPath"]["path"].as<std::string>());
  const std::string mount = Daemon()["volumeMounts"][0]["mountPath"].as<std::string>();
  EXPECT_EQ(Configuration()["socket"].as<std::string>().find(mount + "/"), 0u);
  const YAML::Node worker = WorkerPod()["containers"][0];
  EXPECT_EQ(worker["volumeMounts"][0]["mountPath"].as<std::string>(), mount);
  EXPECT_EQ(worker["env"][0]["value"].as<std::string>(),
            "unix:" + Configuration()["socket"].as<std::string>());
}

TEST_F(Kubernetes, ProbesAskWhatTheDaemonAnswers) {
  const std::string port = std::to_string(Daemon()["ports"][0]["containerPort"].as<int>());
  EXPECT_TRUE(Configuration()["http"]["listen"].as<std::string>().ends_with(":" + port));
  EXPECT_EQ(Daemon()["livenessProbe"]["httpGet"]["path"].as<std::string>(), "/livez");
  EXPECT_EQ(Daemon()["readinessProbe"]["httpGet"]["path"].as<std::string>(), "/readyz");
}

}  // namespace
}  // namespace infercache::e2e
