{{- define "loraline.name" -}}
loraline-operator
{{- end -}}

{{- define "loraline.policy" -}}
loraline-policy
{{- end -}}

{{- define "loraline.selector" -}}
app.kubernetes.io/name: loraline
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "loraline.labels" -}}
{{ include "loraline.selector" . }}
app.kubernetes.io/part-of: loraline
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* An image that must be named, or a sentence that says how to get one. */}}
{{- define "loraline.image" -}}
{{- $image := index .root.Values.images .name -}}
{{- if not $image -}}
{{- fail (printf "images.%s is empty: build and push the images with `tests/images/push.sh HOST/PATH`, then set images.operator and images.trainer to the names that it prints" .name) -}}
{{- end -}}
{{- $image -}}
{{- end -}}

{{/* What the operator's program is told: its options as environment variables. */}}
{{- define "loraline.environment" -}}
- {name: LORALINE_SWITCHBOARD_IMAGE, value: {{ include "loraline.image" (dict "root" . "name" "operator") | quote }}}
- {name: LORALINE_TRAINER_IMAGE, value: {{ include "loraline.image" (dict "root" . "name" "trainer") | quote }}}
- {name: LORALINE_SERVER_IMAGE, value: {{ .Values.images.server | quote }}}
- {name: LORALINE_IMAGE_PULL_POLICY, value: {{ .Values.images.pullPolicy | quote }}}
- {name: LORALINE_SERVER_CPU_ENV, value: {{ .Values.server.cpuEnv | toJson | quote }}}
- {name: LORALINE_TRAINER_ENV, value: {{ .Values.trainer.env | toJson | quote }}}
- {name: LORALINE_NAMESPACES, value: {{ join "," .Values.watchNamespaces | quote }}}
- {name: LORALINE_RESYNC_INTERVAL_S, value: {{ .Values.resyncSeconds | quote }}}
- {name: LORALINE_POLICY, value: {{ include "loraline.policy" . | quote }}}
- {name: LORALINE_GANG_TIMEOUT_S, value: {{ .Values.gangTimeoutSeconds | quote }}}
- {name: LORALINE_LOG_LEVEL, value: {{ .Values.logLevel | quote }}}
- {name: LORALINE_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
{{- end -}}

{{/* What the operator does in the namespaces that it works in, verb by verb. */}}
{{- define "loraline.rules" -}}
- apiGroups: [loraline.dev]
  resources: [lorafinetunes, adapterdeployments]
  verbs: [get, list, watch, patch] # patch: the finalizer of those that are deleted with their output
- apiGroups: [loraline.dev]
  resources: [lorafinetunes/status, adapterdeployments/status]
  verbs: [update]
- apiGroups: [loraline.dev] # owners of children, where the admission plugin OwnerReferencesPermissionEnforcement is on
  resources: [lorafinetunes/finalizers, adapterdeployments/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""] # snapshots of runs, routing tables, data sets
  resources: [configmaps]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services] # list and watch: those of runs on several nodes
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""] # patch: the annotation that makes a kubelet refresh a routing table at once
  resources: [pods]
  verbs: [get, list, watch, patch]
- apiGroups: [""] # list and watch: why a pod does not start
  resources: [events]
  verbs: [create, list, watch]
{{- end -}}
