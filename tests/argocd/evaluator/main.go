// Judges objects as GitOps tools do: with Argo CD's own interpreter of health checks, libraries closed as in its
// controller, and with the kstatus library, by which Flux and kpt read any object.
//
//	evaluator HEALTH.lua OBJECT.yaml...    prints a line of JSON for each: {"argocd": {"status", "message"}, "kstatus"}
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/argoproj/argo-cd/v3/util/lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kstatus "sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(scriptPath string, objectPaths []string) error {
	script, err := os.ReadFile(scriptPath)
	if err != nil {
		return err
	}
	for _, path := range objectPaths {
		line, err := judge(string(script), path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		fmt.Println(line)
	}
	return nil
}

func judge(script, objectPath string) (string, error) {
	text, err := os.ReadFile(objectPath)
	if err != nil {
		return "", err
	}
	jsonText, err := yaml.YAMLToJSON(text)
	if err != nil {
		return "", err
	}
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(jsonText); err != nil {
		return "", err
	}
	health, err := lua.VM{}.ExecuteHealthLua(object, script)
	if err != nil {
		return "", err
	}
	result, err := kstatus.Compute(object)
	if err != nil {
		return "", err
	}
	line, err := json.Marshal(map[string]any{"argocd": health, "kstatus": result.Status})
	return string(line), err
}
