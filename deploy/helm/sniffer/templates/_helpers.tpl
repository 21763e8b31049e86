{{- define "sniffer.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "sniffer.labels" -}}
{{ include "sniffer.selector" . }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "sniffer.selector" -}}
app.kubernetes.io/name: sniffer
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{- /* What both know of addresses that no target may have. */ -}}
{{- define "sniffer.policyArguments" -}}
{{- with .Values.serviceCIDRs }}
- --service-cidrs={{ join "," . }}
{{- end }}
{{- with .Values.allowedTargetCIDRs }}
- --allowed-target-cidrs={{ join "," . }}
{{- end }}
{{- end }}
