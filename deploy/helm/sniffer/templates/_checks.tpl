{{- /* Everything that would make an install look fine and not work, or spoil another: said before anything is touched.
What `lookup` finds nothing of (helm template, a dry run) is not checked. */ -}}
{{- define "sniffer.checks" -}}
{{- $namespace := lookup "v1" "Namespace" "" .Release.Namespace | default dict -}}

{{- /* The agent's pods would be refused one by one, later. */ -}}
{{- $level := dig "metadata" "labels" "pod-security.kubernetes.io/enforce" "privileged" $namespace -}}
{{- if ne $level "privileged" -}}
{{- fail (printf "namespace %s enforces the pod security standard %q, which refuses the agent: it uses the node's network, two of its directories and CAP_BPF. Run: kubectl label --overwrite namespace %s pod-security.kubernetes.io/enforce=privileged" .Release.Namespace $level .Release.Namespace) -}}
{{- end -}}

{{- /* Two agents would fight for the same hooks. What is cluster-scoped has one name, and with --take-ownership Helm would
let a second release have it. */ -}}
{{- $annotations := dig "metadata" "annotations" dict (lookup "rbac.authorization.k8s.io/v1" "ClusterRole" "" "sniffer-agent" | default dict) -}}
{{- $release := index $annotations "meta.helm.sh/release-name" | default .Release.Name -}}
{{- $place := index $annotations "meta.helm.sh/release-namespace" | default .Release.Namespace -}}
{{- if or (ne $release .Release.Name) (ne $place .Release.Namespace) -}}
{{- fail (printf "release %s of namespace %s is sniffer already, and a cluster has one: a node's agent has its interfaces to itself. Change that one (helm upgrade %s --namespace %s), or remove it first (helm uninstall %s --namespace %s)" $release $place $release $place $release $place) -}}
{{- end -}}

{{- /* Without a cluster Helm knows versions, not the kinds in them. */ -}}
{{- if .Capabilities.APIVersions.Has "v1/Namespace" -}}
{{- if not (.Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy") -}}
{{- fail "the API server does not serve ValidatingAdmissionPolicy of admissionregistration.k8s.io/v1, which decides who may mirror to which target: see its flag --runtime-config" -}}
{{- end -}}
{{- if and .Values.flowControl.enabled (not (.Capabilities.APIVersions.Has "flowcontrol.apiserver.k8s.io/v1/FlowSchema")) -}}
{{- fail "flowControl.enabled: given true, allowed where the API server serves FlowSchema of flowcontrol.apiserver.k8s.io/v1: see its flag --runtime-config" -}}
{{- end -}}
{{- end -}}

{{- /* A pod of a class that is not there is never made. */ -}}
{{- if lookup "scheduling.k8s.io/v1" "PriorityClass" "" "system-node-critical" -}}
{{- range $component := tuple "agent" "controller" -}}
{{- with (index $.Values $component).priorityClassName -}}
{{- if not (lookup "scheduling.k8s.io/v1" "PriorityClass" "" .) -}}
{{- fail (printf "%s.priorityClassName: given %s, allowed the name of a PriorityClass (kubectl get priorityclasses)" $component .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
