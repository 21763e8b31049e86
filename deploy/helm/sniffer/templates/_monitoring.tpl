{{- /* Where agents ("component" "agent") or controllers serve metrics; of "root" and "component". */ -}}
{{- define "sniffer.metricsAddress" -}}
{{- $values := .root.Values -}}
{{- $given := (index $values .component).metrics -}}
{{- if and $values.monitoring.podMonitor.enabled (regexMatch "^(127\\.|localhost:|\\[::1\\])" $given) -}}
{{- fail (printf "%s.metrics: given %s with monitoring.podMonitor.enabled, allowed an address where Prometheus gets to, as in 0.0.0.0:9750, or none" .component $given) -}}
{{- end -}}
{{- $given | default (ternary "0.0.0.0:9750" "" $values.monitoring.podMonitor.enabled) -}}
{{- end }}

{{- /* Its port, where it is not loopback: then TLS and tokens are needed, and a Prometheus may come. */ -}}
{{- define "sniffer.metricsPort" -}}
{{- $address := include "sniffer.metricsAddress" . -}}
{{- if and $address (not (regexMatch "^(127\\.|localhost:|\\[::1\\])" $address)) -}}
{{- regexFind "[0-9]+$" $address -}}
{{- end -}}
{{- end }}

{{- define "sniffer.metricsArguments" -}}
{{- with include "sniffer.metricsAddress" . }}
- --metrics={{ . }}
{{- end }}
{{- if include "sniffer.metricsPort" . }}
- --metrics-tls=/etc/sniffer/metrics
{{- end }}
{{- end }}

{{- define "sniffer.metricsMount" -}}
{{- if include "sniffer.metricsPort" . -}}
- name: metrics
  mountPath: /etc/sniffer/metrics
  readOnly: true
{{- end }}
{{- end }}

{{- define "sniffer.metricsVolume" -}}
{{- if include "sniffer.metricsPort" . -}}
- name: metrics
  secret:
    secretName: {{ include "sniffer.metricsSecret" .root }}
    items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]
{{- end }}
{{- end }}

{{- define "sniffer.metricsSecret" -}}
{{ .Values.monitoring.tlsSecretName | default "sniffer-metrics" }}
{{- end }}
