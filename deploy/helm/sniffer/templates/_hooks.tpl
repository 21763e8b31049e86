{{- /* A job of a hook. root, component (its account's name), hook, seconds (at most), args of `sniffer`. */ -}}
{{- define "sniffer.hookJob" }}
apiVersion: batch/v1
kind: Job
metadata:
  name: sniffer-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "sniffer.labels" . | nindent 4 }}
  annotations:
    helm.sh/hook: {{ .hook }}
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
    # What it says is for whoever runs Helm.
    helm.sh/hook-output-log-policy: hook-succeeded,hook-failed
spec:
  backoffLimit: 2
  activeDeadlineSeconds: {{ .seconds }}
  template:
    metadata:
      labels:
        {{- include "sniffer.labels" . | nindent 8 }}
    spec:
      serviceAccountName: sniffer-{{ .component }}
      restartPolicy: Never
      enableServiceLinks: false
      terminationGracePeriodSeconds: 5
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .root.Values.controller.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .root.Values.controller.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        seccompProfile: {type: RuntimeDefault}
      containers:
        - name: {{ .component }}
          image: {{ include "sniffer.image" .root }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args: {{ .args | toJson }}
          env:
            - name: POD_NAMESPACE
              valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
          resources:
            {{- toYaml .root.Values.controller.resources | nindent 12 }}
{{- end }}
